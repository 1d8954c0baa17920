//! The page and its parts, each packed once and shared by all who ask.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::io::Write;
use std::sync::LazyLock;

use flate2::write::GzEncoder;
use flate2::Compression;
use unbroken::Bytes;

/// A file of the page.
pub struct Page {
    pub kind: &'static str,
    plain: Bytes,
    packed: Bytes,
    hash: u64,
}

static PAGES: LazyLock<[(&str, Page); 3]> = LazyLock::new(|| {
    [
        ("/", Page::new("text/html; charset=utf-8", include_str!("page/index.html"))),
        ("/chat.css", Page::new("text/css; charset=utf-8", include_str!("page/chat.css"))),
        ("/chat.js", Page::new("text/javascript; charset=utf-8", include_str!("page/chat.js"))),
    ]
});

/// The file at this path.
pub fn page(path: &str) -> Option<&'static Page> {
    let path = if path == "/index.html" { "/" } else { path };
    PAGES.iter().find(|(known, _)| *known == path).map(|(_, page)| page)
}

impl Page {
    fn new(kind: &'static str, text: &'static str) -> Self {
        let mut packer = GzEncoder::new(Vec::new(), Compression::best());
        // Into memory nothing fails; empty, it would not be offered.
        let packed = packer.write_all(text.as_bytes()).and_then(|()| packer.finish()).unwrap_or_default();
        let mut hasher = DefaultHasher::new();
        text.hash(&mut hasher);
        Self {
            kind,
            plain: Bytes::from_static(text.as_bytes()),
            packed: packed.into(),
            hash: hasher.finish(),
        }
    }

    /// Names this state of the file, packed or not (RFC 9110, 8.8.3).
    pub fn etag(&self, packed: bool) -> String {
        format!("\"{:016x}{}\"", self.hash, if packed { "-gzip" } else { "" })
    }

    pub fn body(&self, packed: bool) -> Bytes {
        if packed {
            self.packed.clone()
        } else {
            self.plain.clone()
        }
    }
}
