//! A send that the kernel takes in parts loses, repeats and reorders nothing.

mod util;

use std::io::Read;

use unbroken::{CloseReason, Config};
use util::{pattern, Custom};

// P1
#[test]
fn a_reply_far_larger_than_the_kernel_buffers_arrives_whole_and_in_order() {
    let mut config = Config::default();
    config.send_buffer = Some(4096);
    config.recv_buffer = Some(4096);
    let open = |net: &mut unbroken::Net, conn, _| {
        assert!(net.send(conn, &pattern(8 << 20)).is_ok());
        net.close(conn);
    };
    let server = util::serve(config, Custom { open: Some(Box::new(open)), ..Custom::default() });
    let mut client = util::narrow_client(server.addr);
    let mut got = Vec::new();
    let mut buf = [0; 1024];
    loop {
        match client.read(&mut buf).unwrap() {
            0 => break,
            n => got.extend_from_slice(&buf[..n]),
        }
    }
    drop(client);
    assert!(got == pattern(8 << 20));
    let (_, report) = server.closed();
    assert_eq!(report.reason, CloseReason::Finished);
    assert_eq!((report.handed, report.unsent, report.unacked), (8 << 20, 0, Some(0)));
    assert!(server.stats().resumed_writes >= 100, "{:?}", server.stats());
}
