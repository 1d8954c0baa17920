//! The lab's first line: no input panics, and how it is cut makes no difference.
#![no_main]

#[path = "../../examples/lab/commands.rs"]
mod commands;

use commands::{first_line, read, Command, LONGEST};
use unbroken::frame::Delimited;

/// The command, and the bytes used by it.
fn command(lines: &mut Delimited, shown: &[u8]) -> Option<(Command, usize)> {
    let mut rest = shown;
    let command = read(lines.next_in(&mut rest)?);
    Some((command, shown.len() - rest.len()))
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let whole = command(&mut first_line(), data);
    // The handler is shown the input again as more of it comes: the first answer stands.
    let mut lines = first_line();
    let first = (0..=data.len()).find_map(|end| command(&mut lines, &data[..end]));
    match (whole, first) {
        (None, None) => assert!(data.len() <= LONGEST && !data.contains(&b'\n')),
        (Some((command, used)), Some((early, early_used))) => {
            assert_eq!(command, early);
            assert!(early_used <= used && used <= data.len());
            if command != Command::Unknown {
                assert_eq!((used, data[used - 1]), (early_used, b'\n'));
            }
        }
        other => panic!("{other:?}"),
    }
});
