//! hyper on tokio's one thread, as its guide has it: a task for each connection, a service that answers
//! with a file. It does for a GET what the example `http` does, by the same system calls, and sets no
//! deadlines.

use std::convert::Infallible;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{HeaderValue, CONTENT_TYPE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rustix::fs::{fstat, openat, FileType, Mode, OFlags};
use rustix::io::Errno;
use tokio::net::TcpListener;
use tokio::runtime::Builder;
use tokio::task::{spawn_local, LocalSet};

/// Serves the files of a directory.
pub fn serve(dir: &Path) -> io::Result<()> {
    let root = Rc::new(File::open(dir)?);
    let runtime = Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(LocalSet::new().run_until(accept(root)))
}

async fn accept(root: Rc<File>) -> io::Result<()> {
    let listener = TcpListener::from_std(super::listen()?)?;
    super::announce(listener.local_addr()?)?;
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Out of descriptors.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let root = root.clone();
        spawn_local(async move {
            let service = service_fn(|request| {
                let answer = answer(&root, &request);
                async move { Ok::<_, Infallible>(answer) }
            });
            // What befalls a connection concerns nobody else.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

fn answer(root: &File, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    if request.method() != Method::GET {
        *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
        return response;
    }
    match read(root, request.uri().path()) {
        Ok(content) => {
            let kind = HeaderValue::from_static("text/html; charset=utf-8");
            response.headers_mut().insert(CONTENT_TYPE, kind);
            *response.body_mut() = content.into();
        }
        Err(_) => *response.status_mut() = StatusCode::NOT_FOUND,
    }
    response
}

/// A file below `root`, in one piece: those that are asked for are small. The way is gone step by step, as
/// in the example.
fn read(root: &File, path: &str) -> io::Result<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let mut at = None;
    for name in path.split('/').skip(1) {
        if name == ".." {
            return Err(Errno::NOENT.into());
        }
        at = Some(File::from(openat(at.as_ref().unwrap_or(root), name, flags, Mode::empty())?));
    }
    let mut file = at.ok_or(Errno::NOENT)?;
    let stat = fstat(&file)?;
    if !FileType::from_raw_mode(stat.st_mode).is_file() {
        return Err(Errno::NOENT.into());
    }
    let mut content = vec![0; stat.st_size as usize];
    file.read_exact(&mut content)?;
    Ok(content)
}
