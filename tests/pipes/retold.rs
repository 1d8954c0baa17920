//! A pipe's input is told of for as long as any is there: no byte stays behind a short read, and nobody is
//! told for nothing.

use std::fs::File;
use std::io::{Read, Write};
use std::thread;
use std::time::Duration;

use rustix::pipe::PipeFlags;
use unbroken::{CloseReason, Config, ConnId};

use crate::util::{self, serve, Custom, Event, Server};
use crate::{add, echo, pipe, pipe_of};

/// Both ends of a connection of two pipes: what is read from, and what is written to.
fn add_both(server: &Server) -> (ConnId, File, File) {
    let ((reader, writer), (out_reader, out_writer)) = (pipe(), pipe());
    (add(server, Some(reader), Some(out_writer)), writer, out_reader)
}

/// How many turns are made in a while in which nobody does anything.
fn turns_at_rest(server: &Server) -> u64 {
    thread::sleep(Duration::from_millis(50));
    let before = server.stats().turns;
    thread::sleep(Duration::from_millis(300));
    server.stats().turns - before
}

/// The question after them costs one or two.
const FEW: u64 = 6;

#[test]
fn a_message_costs_one_read() {
    let server = echo();
    let (_, mut writer, mut out_reader) = add_both(&server);
    for _ in 0..100 {
        writer.write_all(&[7; 64]).unwrap();
        out_reader.read_exact(&mut [0; 64]).unwrap();
    }
    let stats = server.stats();
    assert_eq!((stats.reads, stats.bytes_in), (100, 6400));
    // The first of all, before anything was told.
    assert!(stats.read_eagains <= 1, "{} reads in vain", stats.read_eagains);
}

#[test]
fn every_packet_is_read_whatever_the_pipe_held_when_the_first_was() {
    for seats in [1, 2, 5] {
        let server = serve(Config::default(), util::Sink);
        let (reader, mut writer) = pipe_of(PipeFlags::DIRECT);
        let mut sent = 0;
        // They wait there before anybody is told of them.
        for length in [1, 64, 4096, 3] {
            writer.write_all(&vec![1; length]).unwrap();
            sent += length as u64;
        }
        let conn = add(&server, Some(reader), None);
        // Several packets, from several writers, some of them larger than the kernel keeps whole.
        let writers: Vec<_> = (0..seats)
            .map(|_| {
                let mut writer = writer.try_clone().unwrap();
                thread::spawn(move || {
                    for length in (1..400).chain([5000, 8192, 1]) {
                        writer.write_all(&vec![2; length]).unwrap();
                    }
                })
            })
            .collect();
        sent += seats * ((1..400).sum::<u64>() + 5000 + 8192 + 1);
        writers.into_iter().for_each(|writer| writer.join().unwrap());
        util::eventually("all of it", || server.stats().bytes_in == sent);
        assert_eq!(server.ask(move |net| net.state(conn)), Some(unbroken::State::Open));
        drop(writer);
        let (_, report) = server.closed();
        assert_eq!((report.reason, report.received), (CloseReason::PeerClosed, sent));
    }
}

#[test]
fn an_end_behind_a_short_read_is_heard() {
    for flags in [PipeFlags::empty(), PipeFlags::DIRECT] {
        for both in [false, true] {
            let server = serve(Config::default(), util::Sink);
            let ((reader, mut writer), (_out_reader, out_writer)) = (pipe_of(flags), pipe());
            let conn = add(&server, Some(reader), both.then_some(out_writer));
            for _ in 0..50 {
                writer.write_all(b"line").unwrap();
            }
            drop(writer);
            server.wait_for(util::SOON, |event| *event == Event::Eof(conn));
            assert_eq!(server.stats().bytes_in, 200);
        }
    }
}

#[test]
fn a_paused_pipe_is_not_told_of_and_forgets_nothing() {
    for (flags, ends) in
        [PipeFlags::empty(), PipeFlags::DIRECT].into_iter().flat_map(|flags| [(flags, false), (flags, true)])
    {
        let server = serve(Config::default(), util::Sink);
        let (reader, mut writer) = pipe_of(flags);
        let conn = add(&server, Some(reader), None);
        for round in 1..=3 {
            server.ask(move |net| net.pause_reading(conn));
            for _ in 0..5 {
                writer.write_all(b"unread").unwrap();
            }
            assert!(turns_at_rest(&server) <= FEW);
            assert_eq!(server.stats().bytes_in, 30 * (round - 1));
            server.ask(move |net| net.resume_reading(conn));
            util::eventually("all of it", || server.stats().bytes_in == 30 * round);
        }
        // With the end of the stream behind what is unread.
        server.ask(move |net| net.pause_reading(conn));
        if ends {
            writer.write_all(b"last").unwrap();
        }
        drop(writer);
        assert!(turns_at_rest(&server) <= FEW);
        server.ask(move |net| net.resume_reading(conn));
        let (_, report) = server.closed();
        assert_eq!((report.reason, report.received), (CloseReason::PeerClosed, 90 + 4 * u64::from(ends)));
    }
}

#[test]
fn a_pipe_that_is_paused_by_each_message_is_read_packet_by_packet() {
    let mut seen = 0_u32;
    let handler = Custom {
        data: Some(Box::new(move |net, conn, data| {
            seen += 1;
            net.pause_reading(conn);
            // Now in the callback, now later.
            if seen % 2 == 0 {
                net.resume_reading(conn);
            } else {
                net.set_timer(Duration::from_micros(300));
            }
            data.len()
        })),
        timer: Some(Box::new(|net, _| {
            for conn in net.connections().collect::<Vec<_>>() {
                net.resume_reading(conn);
            }
        })),
        ..Custom::default()
    };
    let server = serve(Config::default(), handler);
    let (reader, mut writer) = pipe_of(PipeFlags::DIRECT);
    add(&server, Some(reader), None);
    for _ in 0..200 {
        writer.write_all(b"packet").unwrap();
    }
    drop(writer);
    assert_eq!(server.closed().1.received, 1200);
}

#[test]
fn a_congested_pipe_is_not_told_of_and_goes_on_when_it_has_drained() {
    let server = echo();
    let (_, mut writer, mut out_reader) = add_both(&server);
    const ALL: usize = 4 << 20;
    let feeder = thread::spawn(move || writer.write_all(&vec![3; ALL]).unwrap());
    util::eventually("congestion", || server.stats().congested == 1);
    assert!(turns_at_rest(&server) <= FEW);
    let mut got = Vec::new();
    out_reader.read_to_end(&mut got).unwrap();
    assert_eq!(got.len(), ALL);
    feeder.join().unwrap();
    assert!(server.closed().1.reason.is_clean());
}

#[test]
fn after_the_end_of_its_input_a_pipe_rests() {
    let server = serve(Config::default(), Custom { eof: Some(Box::new(|_, _| {})), ..Custom::default() });
    let (conn, writer, mut out_reader) = add_both(&server);
    drop(writer);
    server.wait_for(util::SOON, |event| *event == Event::Eof(conn));
    assert!(turns_at_rest(&server) <= FEW);
    // The other direction is as it was.
    server.ask(move |net| net.send(conn, &[1; 300_000])).unwrap();
    out_reader.read_exact(&mut vec![0; 300_000]).unwrap();
    server.ask(move |net| net.close(conn));
    assert!(server.closed().1.reason.is_clean());
}

#[test]
fn a_close_that_waits_for_its_reader_discards_what_comes_and_rests() {
    let server = serve(Config::default(), util::Sink);
    let (conn, mut writer, mut out_reader) = add_both(&server);
    server.ask(move |net| {
        net.send(conn, &[1; 1000]).unwrap();
        net.close(conn);
    });
    writer.write_all(&[2; 5000]).unwrap();
    drop(writer);
    // It looks now and then whether the reader has taken all.
    assert!(turns_at_rest(&server) <= 60);
    out_reader.read_exact(&mut [0; 1000]).unwrap();
    assert_eq!(server.closed().1.reason, CloseReason::Finished);
}
