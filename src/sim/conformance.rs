//! The simulated kernel against the real one: each test plays one script on both and compares
//! what they answer. The facts are numbered as where the kernel's behaviour is written down.
//!
//! What depends on the size of buffers is told as "some", "all" or "part".

mod lab;

use std::os::fd::AsFd;

use lab::Lab;

/// Plays a script on both kernels.
fn alike(connected: bool, script: impl Fn(&mut Lab)) -> Vec<String> {
    let play = |real| {
        let mut lab = if connected { Lab::connected(real) } else { Lab::new(real) };
        script(&mut lab);
        std::mem::take(&mut lab.seen)
    };
    let (real, simulated) = (play(true), play(false));
    assert_eq!(simulated, real, "left: simulated, right: the real kernel");
    real
}

// Fact 1.
#[test]
fn an_error_is_told_once_to_whoever_asks_first() {
    let seen = alike(true, |lab| {
        lab.other_ends("reset");
        lab.events();
        lab.read(10);
        lab.read(10);
        lab.take_error();
    });
    assert_eq!(seen, ["events: RWEM", "read: ECONNRESET", "read: 0", "take_error: none"]);
    let seen = alike(true, |lab| {
        lab.other_ends("reset");
        lab.write(10);
        lab.write(10);
        lab.read(10);
    });
    assert_eq!(seen, ["write: ECONNRESET", "write: EPIPE", "read: 0"]);
    let seen = alike(true, |lab| {
        lab.other_ends("reset");
        lab.take_error();
        lab.read(10);
        lab.shutdown();
    });
    assert_eq!(seen, ["take_error: ECONNRESET", "read: 0", "shutdown: ENOTCONN"]);
}

// Fact 2.
#[test]
fn what_came_before_a_reset_stays_readable() {
    let seen = alike(true, |lab| {
        lab.other_sends(1000);
        lab.other_ends("reset");
        lab.events();
        lab.read(600);
        lab.read(600);
        lab.read(600);
        lab.read(600);
    });
    assert_eq!(seen[1..], ["events: RWEM", "read: 600", "read: 400", "read: ECONNRESET", "read: 0"]);
    let seen = alike(true, |lab| {
        lab.other_sends(1000);
        lab.other_ends("reset");
        lab.write(10);
        lab.read(2000);
        lab.read(2000);
    });
    assert_eq!(seen[1..], ["write: ECONNRESET", "read: 1000", "read: 0"]);
}

// Fact 3.
#[test]
fn a_reset_behind_the_end_of_the_stream_shows_in_no_read() {
    let seen = alike(true, |lab| {
        lab.other_ends("fin");
        lab.events();
        lab.other_ends("reset");
        lab.events();
        lab.read(10);
        lab.read(10);
        lab.take_error();
        lab.take_error();
        lab.write(10);
    });
    let rest = ["read: 0", "read: 0", "take_error: EPIPE", "take_error: none", "write: EPIPE"];
    assert_eq!(seen[..2], ["events: RWM", "events: RWEM"]);
    assert_eq!(seen[2..], rest);
}

// Fact 4.
#[test]
fn the_end_of_the_stream_is_told_together_with_the_data_before_it() {
    alike(true, |lab| {
        lab.other_sends(1000);
        lab.other_ends("fin");
        lab.events();
        lab.read(999);
        lab.read(999);
        lab.read(999);
        lab.events();
    });
}

// Fact 5.
#[test]
fn the_first_write_after_the_peer_closed_succeeds() {
    let seen = alike(true, |lab| {
        lab.other_ends("close");
        lab.read(10);
        lab.write(10);
        lab.settle();
        lab.events();
        lab.write(10);
        lab.read(10);
    });
    assert_eq!(seen, ["read: 0", "write: 10", "events: RWEM", "write: EPIPE", "read: 0"]);
}

// Facts 6 and 7.
#[test]
fn a_close_with_input_unread_or_yet_to_come_destroys_the_tail() {
    for before in [true, false] {
        let seen = alike(true, |lab| {
            if before {
                lab.other_sends(5);
            }
            let written = lab.fill();
            lab.close();
            if !before {
                lab.other_sends(1);
            }
            let (read, end) = lab.other_reads();
            lab.say("other reads", format!("{}, then {end}", if read < written { "part" } else { "all" }));
        });
        assert_eq!(seen.last().unwrap(), "other reads: part, then ECONNRESET");
    }
    let seen = alike(true, |lab| {
        let written = lab.fill();
        lab.shutdown();
        let (read, end) = lab.other_reads();
        lab.say("other reads", format!("{}, then {end}", if read < written { "part" } else { "all" }));
    });
    assert_eq!(seen.last().unwrap(), "other reads: all, then end of stream");
}

// Fact 14.
#[test]
fn what_was_not_acknowledged_is_counted_beyond_a_reset() {
    alike(true, |lab| {
        lab.write(100);
        lab.settle();
        let none = lab.unacknowledged();
        lab.say("unacknowledged", none.to_string());
        lab.other_ends("reset");
        let none = lab.unacknowledged();
        lab.say("unacknowledged after a reset", none.to_string());
    });
    let seen = alike(true, |lab| {
        lab.fill();
        lab.settle();
        let before = lab.unacknowledged();
        lab.other_ends("reset");
        let after = lab.unacknowledged();
        lab.say("still counted", (before > 0 && after == before).to_string());
        lab.write(1);
        lab.write(1);
    });
    assert_eq!(seen[1..], ["still counted: true", "write: ECONNRESET", "write: EPIPE"]);
}

// Fact 15.
#[test]
fn a_read_without_room_is_no_end_of_stream() {
    alike(true, |lab| {
        lab.other_sends(10);
        lab.read(0);
        lab.read(20);
        lab.read(20);
    });
}

#[test]
fn an_edge_is_told_once_and_several_are_told_together() {
    let seen = alike(true, |lab| {
        lab.other_sends(10);
        lab.events();
        lab.events();
        lab.other_sends(10);
        lab.other_sends(10);
        lab.events();
        lab.events();
        lab.read(100);
        lab.events();
    });
    let events: Vec<_> = seen.iter().filter(|line| line.starts_with("events")).collect();
    assert_eq!(events, ["events: RW", "events: ", "events: RW", "events: ", "events: "]);
}

#[test]
fn of_a_closed_socket_nothing_more_is_told() {
    let seen = alike(true, |lab| {
        lab.other_sends(10);
        lab.close();
        lab.events();
    });
    assert_eq!(seen[1..], ["events: "]);
}

#[test]
fn the_end_of_ones_own_stream_is_an_event_for_nothing() {
    let seen = alike(true, |lab| {
        lab.shutdown();
        lab.settle();
        lab.events();
        lab.other_sends(10);
        lab.read(100);
        lab.read(100);
    });
    assert_eq!(seen, ["shutdown: done", "events: W", "other sends: 10", "read: 10", "read: EAGAIN"]);
}

#[test]
fn a_full_kernel_tells_when_there_is_room() {
    let seen = alike(true, |lab| {
        lab.fill();
        lab.events();
        lab.seen.clear();
        lab.events();
        lab.other_reads();
        lab.settle();
        lab.events();
        lab.write(1);
    });
    assert_eq!(seen, ["events: ", "events: W", "write: 1"]);
}

#[test]
fn both_streams_ended_is_a_hang_up_without_an_error() {
    alike(true, |lab| {
        lab.shutdown();
        lab.settle();
        lab.events();
        lab.write(1);
        lab.other_ends("fin");
        lab.events();
        lab.read(1);
        lab.take_error();
    });
}

#[test]
fn a_peer_that_half_closes_still_reads() {
    let seen = alike(true, |lab| {
        lab.other_ends("fin");
        lab.read(1);
        lab.write(100);
        let (read, end) = lab.other_reads();
        lab.say("other reads", format!("{read}, then {end}"));
        lab.shutdown();
        let (read, end) = lab.other_reads();
        lab.say("other reads", format!("{read}, then {end}"));
    });
    assert_eq!(seen.last().unwrap(), "other reads: 0, then end of stream");
}

#[test]
fn a_client_that_reset_in_the_queue_is_accepted_all_the_same() {
    let seen = alike(false, |lab| {
        lab.other_connects();
        lab.events();
        lab.other_sends(3);
        lab.other_ends("reset");
        lab.accept();
        lab.read(10);
        lab.read(10);
        lab.accept();
    });
    assert_eq!(seen[0], "events: listener ");
    assert_eq!(seen[2..], ["accept: a client", "read: 3", "read: ECONNRESET", "accept: EAGAIN"]);
}

#[test]
fn a_listener_that_closes_resets_those_who_wait() {
    let seen = alike(false, |lab| {
        lab.other_connects();
        lab.acceptor = None;
        lab.settle();
        let (read, end) = lab.other_reads();
        lab.say("other reads", format!("{read}, then {end}"));
    });
    assert_eq!(seen, ["other reads: 0, then ECONNRESET"]);
}

#[test]
fn a_refused_connect_is_told_by_an_error_that_is_there_once() {
    let seen = alike(false, |lab| {
        // A port that was just given up.
        lab.acceptor = None;
        let addr = lab.addr;
        lab.connect(addr);
        lab.events();
        lab.take_error();
        lab.take_error();
        lab.read(1);
        let left = lab.unacknowledged();
        lab.say("unacknowledged", left.to_string());
    });
    assert_eq!(seen[..3], ["events: RWEM", "take_error: ECONNREFUSED", "take_error: none"]);
}

// Fact 13, with the descriptors of a process of its own.
#[test]
fn an_accept_that_found_no_descriptor_gets_no_second_edge() {
    const CHILD: &str = "UNBROKEN_CONFORMANCE_CHILD";
    let script = |lab: &mut Lab, exhaust: &mut dyn FnMut(&Lab, bool)| {
        lab.other_connects();
        lab.events();
        exhaust(lab, true);
        lab.accept();
        lab.events();
        exhaust(lab, false);
        lab.events();
        lab.accept();
        lab.seen.join("\n")
    };
    if std::env::var_os(CHILD).is_some() {
        use rustix::process::{getrlimit, setrlimit, Resource, Rlimit};
        let before = getrlimit(Resource::Nofile);
        let mut lab = Lab::new(true);
        let seen = script(&mut lab, &mut |lab, on| {
            if !on {
                return setrlimit(Resource::Nofile, before).unwrap();
            }
            // The next descriptor to be had is one past the last.
            let next = lab.acceptor.as_ref().unwrap().share_fd().unwrap().try_clone_to_owned().unwrap();
            let lowest = std::os::fd::AsRawFd::as_raw_fd(&next.as_fd()) as u64;
            let limit = Rlimit { current: Some(lowest), maximum: before.maximum };
            drop(next);
            setrlimit(Resource::Nofile, limit).unwrap();
        });
        return println!("\n<<{seen}>>");
    }
    let name = "sim::conformance::an_accept_that_found_no_descriptor_gets_no_second_edge";
    let child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(CHILD, "1")
        .output()
        .unwrap();
    let output = String::from_utf8_lossy(&child.stdout).into_owned();
    let real = output.split("<<").nth(1).and_then(|rest| rest.split(">>").next()).expect(&output);
    let mut lab = Lab::new(false);
    let simulated = script(&mut lab, &mut |lab, on| {
        let mut world = lab.kernel.as_ref().unwrap().world();
        world.descriptor_limit = on.then_some(world.descriptors);
    });
    assert_eq!(simulated, real, "left: simulated, right: the real kernel");
    assert_eq!(real, "events: listener \naccept: EMFILE\nevents: \nevents: \naccept: a client");
}
