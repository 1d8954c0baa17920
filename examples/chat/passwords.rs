//! Names and hashed passwords, from a file: a line `name:hash` each, the hash as `openssl passwd -6`
//! makes it. Lines that begin with `#`, and empty ones, do not count.

use std::collections::HashMap;
use std::io::{Error, ErrorKind, Result};
use std::path::Path;

use crate::events::Part;

pub struct Passwords(HashMap<String, String>);

/// A hash that no password has, to take the same time over a name that nobody has.
const NOBODY: &str = "$6$nobody$";

impl Passwords {
    /// Reads a file of them.
    ///
    /// # Errors
    ///
    /// Names the file, and the line that makes no sense.
    pub fn read(path: &Path) -> Result<Self> {
        let named = |what: String| Error::new(ErrorKind::InvalidInput, format!("{}: {what}", path.display()));
        let text = std::fs::read_to_string(path).map_err(|error| named(error.to_string()))?;
        let mut all = HashMap::new();
        for (n, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let entry = line.split_once(':').filter(|(name, hash)| {
                Part::try_from((*name).to_owned()).is_ok() && hash.starts_with("$6$") && hash.len() > 86
            });
            let Some((name, hash)) = entry else {
                return Err(named(format!(
                    "line {}: name:hash is wanted, the hash by openssl passwd -6",
                    n + 1
                )));
            };
            all.insert(name.to_owned(), hash.to_owned());
        }
        Ok(Self(all))
    }

    pub fn accepts(&self, name: &str, password: &str) -> bool {
        let hash = self.0.get(name).map_or(NOBODY, String::as_str);
        sha_crypt::sha512_check(password, hash).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_known_by_its_hash() {
        // openssl passwd -6 -salt saltstring sesame
        let hash = sha_crypt::sha512_simple("sesame", &sha_crypt::Sha512Params::default()).expect("a hash");
        let passwords = Passwords(HashMap::from([("anna".to_owned(), hash)]));
        assert!(passwords.accepts("anna", "sesame"));
        assert!(!passwords.accepts("anna", "Sesame") && !passwords.accepts("bert", "sesame"));
    }
}
