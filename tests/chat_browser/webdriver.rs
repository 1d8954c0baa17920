//! A small client of chromedriver: W3C WebDriver is HTTP with JSON. Every request has a deadline, and
//! what was started here is ended here, chromium and its directory included.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{json, Value};

/// How long chromium may take for anything, its start included.
const PATIENCE: Duration = Duration::from_secs(15);

/// What WebDriver calls the keys without a character.
pub mod key {
    pub const TAB: char = '\u{e004}';
    pub const ENTER: char = '\u{e007}';
    pub const SHIFT: char = '\u{e008}';
    pub const ALT: char = '\u{e00a}';
    pub const ESCAPE: char = '\u{e00c}';
    pub const UP: char = '\u{e013}';
    pub const DOWN: char = '\u{e015}';
}

/// One browser at a time: each has a dozen processes.
static ONE: Mutex<()> = Mutex::new(());

/// A running chromedriver, in a process group of its own.
pub struct Driver {
    _one: MutexGuard<'static, ()>,
    child: Child,
    port: u16,
    dir: PathBuf,
    sessions: AtomicUsize,
}

impl Driver {
    pub fn start() -> Self {
        let one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        let dir = std::env::temp_dir().join(format!("unbroken-chromium-{}", std::process::id()));
        fs::create_dir_all(&dir).expect("a directory for chromium");
        let mut command = Command::new("chromedriver");
        // Chromium puts what it shares between its processes, and its crash reports, there too.
        command.arg("--port=0").env("TMPDIR", &dir).env("HOME", &dir).process_group(0);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().expect("chromedriver starts");
        let mut output = BufReader::new(child.stdout.take().expect("piped"));
        let mut driver = Self { _one: one, child, port: 0, dir, sessions: AtomicUsize::new(0) };
        let mut line = String::new();
        while driver.port == 0 && output.read_line(&mut line).expect("output") > 0 {
            let port = line.split("successfully on port ").nth(1);
            driver.port =
                port.and_then(|port| port.trim_end().trim_end_matches('.').parse().ok()).unwrap_or(0);
            line.clear();
        }
        assert_ne!(driver.port, 0, "chromedriver does not say its port");
        driver
    }

    /// Opens a browser of its own, with nothing in its profile.
    pub fn open(&self, width: u32, height: u32) -> Page<'_> {
        let number = self.sessions.fetch_add(1, Ordering::Relaxed);
        let mut args = vec![
            "--headless".to_owned(),
            // Those of the tests are signed by nobody.
            "--ignore-certificate-errors".to_owned(),
            format!("--user-data-dir={}", self.dir.join(number.to_string()).display()),
            format!("--window-size={width},{height}"),
        ];
        // No sandbox works for root; the rest keeps chromium from calling home.
        let quiet = "--no-sandbox --disable-gpu --disable-quic --disable-dev-shm-usage --no-first-run \
            --disable-background-networking --disable-component-update --disable-sync";
        args.extend(quiet.split_whitespace().map(str::to_owned));
        let answer = self.call(
            "POST",
            "/session",
            json!({ "capabilities": { "alwaysMatch": {
                "browserName": "chrome",
                "goog:chromeOptions": { "args": args },
                "goog:loggingPrefs": { "browser": "ALL" },
            } } }),
        );
        let id = answer["sessionId"].as_str().expect("a session").to_owned();
        Page { driver: self, path: format!("/session/{id}") }
    }

    fn call(&self, method: &str, path: &str, body: Value) -> Value {
        self.try_call(method, path, &body).unwrap_or_else(|error| panic!("{method} {path} {body}: {error}"))
    }

    fn try_call(&self, method: &str, path: &str, body: &Value) -> Result<Value, String> {
        let answer = self.request(method, path, body).map_err(|error| error.to_string())?;
        let answer: Value = serde_json::from_slice(&answer).map_err(|error| error.to_string())?;
        match &answer["value"] {
            Value::Object(value) if value.contains_key("error") => Err(answer["value"].to_string()),
            value => Ok(value.clone()),
        }
    }

    /// One request on a connection of its own; the body of the answer.
    fn request(&self, method: &str, path: &str, body: &Value) -> std::io::Result<Vec<u8>> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let body = if method == "POST" { body.to_string() } else { String::new() };
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nConnection: close\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            self.port,
            body.len()
        );
        stream.write_all((head + &body).as_bytes())?;
        let mut answer = BufReader::new(stream);
        let (mut line, mut length) = (String::new(), 0);
        while answer.read_line(&mut line)? > 2 {
            if let Some((name, value)) = line.split_once(':') {
                if name.eq_ignore_ascii_case("content-length") {
                    length = value.trim().parse().expect("a length");
                }
            }
            line.clear();
        }
        let mut body = vec![0; length];
        answer.read_exact(&mut body)?;
        Ok(body)
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // Its group: a chromium that a failed test left open ends with it.
        let group = nix::unistd::Pid::from_raw(self.child.id() as i32);
        let _ = nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL);
        let _ = self.child.wait();
        // The last of chromium's processes may still write for a moment.
        let deadline = Instant::now() + Duration::from_secs(2);
        while fs::remove_dir_all(&self.dir).is_err() && self.dir.exists() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// A window of a browser. Dropping it closes the browser.
pub struct Page<'a> {
    driver: &'a Driver,
    path: String,
}

impl Page<'_> {
    fn post(&self, path: &str, body: Value) -> Value {
        self.driver.call("POST", &format!("{}{path}", self.path), body)
    }

    pub fn go(&self, url: &str) {
        self.post("/url", json!({ "url": url }));
    }

    /// The value of a JavaScript expression.
    pub fn eval(&self, expression: &str) -> Value {
        self.post("/execute/sync", json!({ "script": format!("return {expression}"), "args": [] }))
    }

    /// Waits until a JavaScript expression is true.
    pub fn until(&self, condition: &str) {
        let deadline = Instant::now() + PATIENCE;
        while self.eval(condition) != json!(true) {
            let text = || self.eval("document.body.innerText");
            assert!(Instant::now() < deadline, "not in time: {condition}\n{}", text().as_str().unwrap_or(""));
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Types into whatever has the focus, as a user without a mouse does.
    pub fn keys(&self, keys: &str) {
        let active = self.driver.call("GET", &format!("{}/element/active", self.path), json!({}));
        let element = active.as_object().and_then(|one| one.values().next()?.as_str()).expect("a focus");
        self.post(&format!("/element/{element}/value"), json!({ "text": keys }));
    }

    /// Pretends to be another screen: a phone's has a touch keyboard and two dots to a pixel.
    pub fn screen(&self, width: u32, height: u32, phone: bool) {
        let scale = if phone { 2 } else { 1 };
        let metrics =
            json!({ "width": width, "height": height, "deviceScaleFactor": scale, "mobile": phone });
        self.cdp("Emulation.setDeviceMetricsOverride", metrics);
        self.cdp("Emulation.setTouchEmulationEnabled", json!({ "enabled": phone }));
    }

    /// What the user's system says it prefers.
    pub fn prefers(&self, feature: &str, value: &str) {
        self.cdp("Emulation.setEmulatedMedia", json!({ "features": [{ "name": feature, "value": value }] }));
    }

    fn cdp(&self, command: &str, params: Value) {
        self.post("/goog/cdp/execute", json!({ "cmd": command, "params": params }));
    }

    pub fn screenshot(&self, file: &Path) {
        let encoded = self.driver.call("GET", &format!("{}/screenshot", self.path), json!({}));
        fs::write(file, base64(encoded.as_str().expect("a picture"))).expect("the screenshot is written");
    }

    /// What the browser has logged since the last call.
    pub fn log(&self) -> Vec<String> {
        let entries = self.post("/se/log", json!({ "type": "browser" }));
        let entries = entries.as_array().expect("a log").iter();
        entries.map(|entry| entry["message"].as_str().unwrap_or_default().to_owned()).collect()
    }
}

impl Drop for Page<'_> {
    fn drop(&mut self) {
        let _ = self.driver.try_call("DELETE", &self.path, &json!({}));
    }
}

fn base64(text: &str) -> Vec<u8> {
    let (mut bytes, mut bits, mut count) = (Vec::new(), 0u32, 0);
    for char in text.bytes() {
        let value = match char {
            b'A'..=b'Z' => char - b'A',
            b'a'..=b'z' => char - b'a' + 26,
            b'0'..=b'9' => char - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => continue,
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
        }
    }
    bytes
}
