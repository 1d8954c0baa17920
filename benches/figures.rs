//! The figures that the engine is held to, measured on this machine and printed as one table.
//!
//! cargo bench                     all of them, in under four minutes
//! cargo bench -- --quick          the same with less care, in under one
//! cargo bench -- NAME...          some of them; `cargo bench -- --list` tells the names
//!
//! Every server is a process of its own: this program, started again with `--role`. What each
//! figure is and how it is taken stands in `benches/NOTES.md`.

#[cfg(target_os = "linux")]
mod support;

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    support::main()
}

#[cfg(not(target_os = "linux"))]
fn main() {
    println!("the figures are read from /proc and taken on Linux only");
}
