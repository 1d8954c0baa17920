//! The lab's first line: no input panics, and how it is cut makes no difference.
#![no_main]

#[path = "../../examples/lab/commands.rs"]
mod commands;

use commands::{read, Command, LONGEST};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let whole = read(data);
    // The handler is shown the input again as more of it comes: the first answer stands.
    let first = (0..=data.len()).find_map(|end| read(&data[..end]));
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
