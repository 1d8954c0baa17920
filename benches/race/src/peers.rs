//! Who takes part, and how each is started.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::process::{self, Server, Side, LISTENING};
use crate::tls;

/// The reference of every ratio.
pub const REFERENCE: &str = "raw epoll";
/// The reference of those under TLS, for which nobody writes a server by hand.
pub const SECURED_REFERENCE: &str = "tokio tuned";
/// What the race is for.
pub const ENGINE: &str = "unbroken";

/// Peers that have no server for TLS here.
const NEVER_SECURED: [&str; 9] =
    [REFERENCE, "raw mio", "smol", "message-io", "monoio", "libuv", "asyncio", "asyncio + malloc", "uvloop"];

pub struct Peer {
    pub name: &'static str,
    /// How it is started, or why it cannot be.
    command: Result<Vec<String>, String>,
    /// The same for TLS, where that is another program.
    secured: Option<Vec<String>>,
    /// Whether its instructions can be counted in reasonable time.
    pub compiled: bool,
}

/// All of them, the reference first, each with its way to be started.
pub fn prepare(target: &Path) -> io::Result<Vec<Peer>> {
    let binaries = target.join("peers");
    fs::create_dir_all(&binaries)?;
    let program = std::env::current_exe()?.with_file_name("race-peer").display().to_string();
    let compiled = |name, command| Peer { name, command, secured: None, compiled: true };
    let interpreted = |name, command| Peer { name, command, secured: None, compiled: false };
    let rust = |name, role: &str| compiled(name, Ok(vec![program.clone(), role.to_owned()]));
    Ok(vec![
        rust(REFERENCE, "epoll"),
        engine()?,
        rust("raw mio", "mio"),
        rust("tokio taught", "tokio-taught"),
        rust("tokio tuned", "tokio-tuned"),
        rust("smol", "smol"),
        rust("message-io", "message-io"),
        rust("monoio", "monoio"),
        compiled("libevent", compile("libevent", &binaries)),
        compiled("libuv", compile("libuv", &binaries)),
        interpreted("asyncio", python("asyncio", &["python3"], &[])),
        // `env` becomes the program it starts.
        interpreted(
            "asyncio + malloc",
            python("asyncio", &["env", "MALLOC_MMAP_THRESHOLD_=4194304", "python3"], &[]),
        ),
        interpreted("uvloop", python("uvloop", &["python3"], &["--uvloop"])),
    ])
}

/// The engine: without any feature, and for TLS the one with it.
pub fn engine() -> io::Result<Peer> {
    let own = std::env::current_exe()?;
    let command = match own.with_file_name("race-engine") {
        program if program.is_file() => Ok(vec![program.display().to_string()]),
        _ => Err("unbroken-race-engine is not built: `cargo bench --bench race` does it".to_owned()),
    };
    let secured = vec![own.with_file_name("race-peer").display().to_string(), "unbroken".to_owned()];
    Ok(Peer { name: ENGINE, command, secured: Some(secured), compiled: true })
}

/// A peer given as `NAME=PROGRAM ARGUMENTS`: another build of one, to be compared.
pub fn other(text: &str) -> Option<Peer> {
    let (name, command) = text.split_once('=')?;
    let command: Vec<String> = command.split_whitespace().map(str::to_owned).collect();
    // It is named for as long as the program runs.
    let name: &'static str = Box::leak(name.to_owned().into_boxed_str());
    (!command.is_empty()).then_some(Peer { name, command: Ok(command), secured: None, compiled: true })
}

fn source(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("peers").join(file)
}

fn output(command: &mut Command) -> Result<String, String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output().map_err(|error| format!("{name}: {error}"))?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => {
            let text = String::from_utf8_lossy(&output.stderr);
            let line = text.lines().find(|line| line.contains("error")).or(text.lines().last());
            Err(line.unwrap_or("it failed and said nothing").trim().to_owned())
        }
    }
}

/// A server in C, compiled here when its library is installed.
fn compile(library: &str, binaries: &Path) -> Result<Vec<String>, String> {
    let packages =
        |names: &[&str]| output(Command::new("pkg-config").args(["--cflags", "--libs"]).args(names));
    // One of them speaks TLS where its library was built with OpenSSL.
    let flags = match packages(&[library, "libevent_openssl", "openssl"]) {
        Ok(flags) if library == "libevent" => format!("-DWITH_TLS {flags}"),
        _ => packages(&[library]).map_err(|_| format!("{library} is not installed"))?,
    };
    let binary = binaries.join(library);
    let mut compiler = Command::new("cc");
    compiler.args(["-O2", "-o"]).arg(&binary).arg(source(&format!("{library}.c")));
    output(compiler.args(flags.split_whitespace()))?;
    Ok(vec![binary.display().to_string()])
}

/// The server in Python, when this module is installed.
fn python(module: &str, interpreter: &[&str], flags: &[&str]) -> Result<Vec<String>, String> {
    output(Command::new("python3").args(["-c", &format!("import {module}")]))
        .map_err(|_| format!("{module} is not installed"))?;
    let script = source("asyncio_server.py").display().to_string();
    let words = interpreter.iter().copied().chain([script.as_str()]).chain(flags.iter().copied());
    Ok(words.map(str::to_owned).collect())
}

impl Peer {
    /// Why it cannot take part.
    pub fn absent(&self) -> Option<&str> {
        self.command.as_ref().err().map(String::as_str)
    }

    /// Starts its server for `role`, on the server's processor, run by `under` when there is one.
    pub fn start(&self, role: &[String], under: &[String]) -> Result<Server, String> {
        let secured = role.first().is_some_and(|role| role.starts_with(tls::PREFIX));
        let own = match &self.secured {
            Some(command) if secured => command,
            _ => self.command.as_ref().map_err(Clone::clone)?,
        };
        if self.lacks(role) {
            return Err("has no server of that kind".to_owned());
        }
        let mut words = under.iter().chain(own).chain(role);
        let mut command = Command::new(words.next().ok_or("no program")?);
        command.args(words);
        if under.is_empty() {
            command.stderr(Stdio::null());
        }
        launch(&mut command).map_err(|error| error.to_string())
    }

    fn lacks(&self, role: &[String]) -> bool {
        let role = role.first().map_or("", String::as_str);
        if role.starts_with(tls::PREFIX) && NEVER_SECURED.contains(&self.name) {
            return true;
        }
        matches!((self.name, role), ("message-io", "proxy") | ("monoio", "fanout"))
    }
}

/// Starts a program on the server's processor, to end with us.
pub fn spawn(command: &mut Command) -> io::Result<Child> {
    use std::os::unix::process::CommandExt;
    // SAFETY: between fork and exec one system call is made, and nothing else.
    unsafe { command.pre_exec(process::die_with_parent) };
    // What is started inherits the processor.
    process::pin(Side::Server)?;
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
    process::pin(Side::Load)?;
    child
}

/// The same with a server that says where it listens.
pub fn launch(command: &mut Command) -> io::Result<Server> {
    Server::announced(spawn(command)?, LISTENING)
}

/// Starts a program where we run ourselves, which takes orders on its standard input and ends with us.
pub fn spawn_beside(command: &mut Command) -> io::Result<Child> {
    use std::os::unix::process::CommandExt;
    // SAFETY: between fork and exec one system call is made, and nothing else.
    unsafe { command.pre_exec(process::die_with_parent) };
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()
}
