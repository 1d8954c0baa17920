//! Two sessions above two ends of a pipe that does all that sockets do: short counts, EAGAIN, EINTR, ends,
//! cuts at any byte. What is offered, taken, on its way and come is compared after every step.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSlice};
use std::rc::Rc;

use proptest::prelude::*;

use super::secured::Secured;
use super::toy::{Toy, HEADER, TAG};
use crate::transport::{LastHeard, Transport};

/// One direction.
#[derive(Debug, Default)]
struct Way {
    bytes: VecDeque<u8>,
    /// What a sender has put in altogether.
    written: Vec<u8>,
    room: usize,
    ended: bool,
    broken: bool,
}

/// One end of the pipe; the next calls are as short as `shortest` says, and every so often interrupted.
#[derive(Debug)]
struct End {
    incoming: Rc<RefCell<Way>>,
    outgoing: Rc<RefCell<Way>>,
    most: usize,
    interrupts: bool,
}

impl End {
    fn is_interrupted(&mut self) -> bool {
        std::mem::take(&mut self.interrupts)
    }
}

impl Transport for End {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        assert!(!buf.is_empty(), "a read into nothing would look like the end");
        if self.is_interrupted() {
            return Err(ErrorKind::Interrupted.into());
        }
        let way = &mut *self.incoming.borrow_mut();
        if way.bytes.is_empty() {
            return match (way.broken, way.ended) {
                (true, _) => Err(io::Error::from_raw_os_error(libc::ECONNRESET)),
                (_, true) => Ok(0),
                _ => Err(ErrorKind::WouldBlock.into()),
            };
        }
        let count = way.bytes.len().min(buf.len());
        for (place, byte) in buf.iter_mut().zip(way.bytes.drain(..count)) {
            *place = byte;
        }
        way.room += count;
        Ok(count)
    }

    fn write(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        if self.is_interrupted() {
            return Err(ErrorKind::Interrupted.into());
        }
        let way = &mut *self.outgoing.borrow_mut();
        assert!(!way.ended, "nothing behind the end");
        if way.broken {
            return Err(io::Error::from_raw_os_error(libc::EPIPE));
        }
        let offered: usize = slices.iter().map(|slice| slice.len()).sum();
        let count = offered.min(way.room).min(self.most);
        if count == 0 {
            return Err(ErrorKind::WouldBlock.into());
        }
        let taken: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).take(count).collect();
        way.written.extend_from_slice(&taken);
        way.bytes.extend(taken);
        way.room -= count;
        Ok(count)
    }

    fn shutdown_write(&mut self) -> io::Result<()> {
        self.outgoing.borrow_mut().ended = true;
        Ok(())
    }

    fn take_error(&mut self) -> io::Result<Option<io::Error>> {
        Ok(None)
    }

    fn unacknowledged(&self) -> Option<u64> {
        Some(self.outgoing.borrow().bytes.len() as u64)
    }

    fn last_heard(&self) -> Option<LastHeard> {
        None
    }

    fn unread(&self) -> Option<usize> {
        Some(self.incoming.borrow().bytes.len())
    }

    fn short_read_empties(&self) -> bool {
        true
    }

    fn reset_on_close(&mut self) {}
}

/// One of the two programs: a queue, and what has come.
struct Program {
    session: Secured<End>,
    queued: usize,
    taken: usize,
    came: usize,
    saw_end: bool,
    wants_end: bool,
    has_ended: bool,
    broken: bool,
}

fn byte(at: usize) -> u8 {
    (at % 251) as u8
}

impl Program {
    fn new(session: Toy, incoming: &Rc<RefCell<Way>>, outgoing: &Rc<RefCell<Way>>) -> Self {
        let end = End { incoming: incoming.clone(), outgoing: outgoing.clone(), most: 1, interrupts: false };
        Self {
            session: Secured::new(end, Box::new(session), 0, false),
            queued: 0,
            taken: 0,
            came: 0,
            saw_end: false,
            wants_end: false,
            has_ended: false,
            broken: false,
        }
    }

    fn shake_hands(&mut self) {
        if !self.session.takes_data() {
            let done = self.session.shake_hands(&mut [0; 512]);
            if let Err(error) = done {
                let is_end = error.kind() == ErrorKind::UnexpectedEof || error.raw_os_error().is_some();
                self.broken |= is_end;
            }
        }
        let _ = self.session.send_own();
    }

    fn write(&mut self, offered: usize, cut: usize) {
        if self.broken || !self.session.takes_data() {
            return;
        }
        let offered = offered.min(self.queued - self.taken);
        let bytes: Vec<u8> = (self.taken..self.taken + offered).map(byte).collect();
        let (front, back) = bytes.split_at(cut.min(bytes.len()));
        if offered > 0 {
            match self.session.write(&[IoSlice::new(front), IoSlice::new(back)]) {
                Ok(taken) => {
                    assert!((1..=offered).contains(&taken));
                    self.taken += taken;
                }
                Err(error) => self.broken |= error.raw_os_error().is_some(),
            }
        }
        if self.wants_end && self.taken == self.queued && !self.has_ended {
            self.has_ended = self.session.shutdown_write().is_ok();
        }
    }

    fn read(&mut self, room: usize) {
        if self.broken || self.saw_end || !self.session.takes_data() {
            return;
        }
        let mut buf = vec![0; room];
        match self.session.read(&mut buf) {
            Ok(0) => self.saw_end = true,
            Ok(count) => {
                let expected = self.came..self.came + count;
                assert!(buf[..count].iter().copied().eq(expected.map(byte)), "something else came");
                self.came += count;
                if count < room && self.session.short_read_empties() {
                    // Ends and errors bring events of their own.
                    match self.session.read(&mut buf) {
                        Ok(0) => self.saw_end = true,
                        Ok(more) => panic!("a short read hid {more} bytes"),
                        Err(error) => self.broken |= error.raw_os_error().is_some(),
                    }
                }
            }
            Err(error) => self.broken |= error.raw_os_error().is_some(),
        }
    }
}

/// Plaintext in the whole records of a stream.
fn readable(wire: &[u8]) -> usize {
    let (mut rest, mut plain) = (wire, 0);
    while let Some((header, behind)) = rest.split_first_chunk::<HEADER>() {
        let len = u32::from_be_bytes([header[1], header[2], header[3], header[4]]) as usize;
        let Some(behind) = behind.get(len + TAG..) else { break };
        plain += if header[0] == 2 { len } else { 0 };
        rest = behind;
    }
    plain
}

#[derive(Clone, Debug)]
enum Deed {
    ShakeHands,
    Queue(usize),
    Write(usize, usize),
    Read(usize),
    Room(usize),
    Short(usize),
    Interrupt,
    End,
    Cut,
}

fn deed() -> impl Strategy<Value = (bool, Deed)> {
    let deed = prop_oneof![
        4 => Just(Deed::ShakeHands),
        3 => (1..40_000_usize).prop_map(Deed::Queue),
        6 => (1..100_000_usize, 0..70_000_usize).prop_map(|(offered, cut)| Deed::Write(offered, cut)),
        6 => (1..40_000_usize).prop_map(Deed::Read),
        4 => (1..50_000_usize).prop_map(Deed::Room),
        3 => (1..30_000_usize).prop_map(Deed::Short),
        1 => Just(Deed::Interrupt),
        1 => Just(Deed::End),
    ];
    (any::<bool>(), prop_oneof![60 => deed, 1 => Just(Deed::Cut)])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_sockets_do_the_books_are_in_plaintext_and_exact(deeds in prop::collection::vec(deed(), 1..250)) {
        let ways = [Rc::new(RefCell::new(Way::default())), Rc::new(RefCell::new(Way::default()))];
        let mut programs =
            [Program::new(Toy::client(), &ways[1], &ways[0]), Program::new(Toy::server(), &ways[0], &ways[1])];
        let (mut cut, mut told_to_end) = (false, [false; 2]);
        for (who, deed) in deeds {
            let who = usize::from(who);
            let program = &mut programs[who];
            match deed {
                Deed::ShakeHands => program.shake_hands(),
                Deed::Queue(more) if !program.wants_end => program.queued += more,
                Deed::Queue(_) => {}
                Deed::Write(offered, at) => program.write(offered, at),
                Deed::Read(room) => program.read(room),
                Deed::Room(more) => ways[who].borrow_mut().room += more,
                Deed::Short(most) => program.session.below_mut().most = most,
                Deed::Interrupt => program.session.below_mut().interrupts = true,
                Deed::End => { program.wants_end = true; told_to_end[who] = true; }
                Deed::Cut => {
                    cut = true;
                    ways.iter().for_each(|way| way.borrow_mut().broken = true);
                }
            }
            check(&programs, &ways);
        }
        // In the end everybody gets on, and all that was queued arrives.
        for _ in 0..250 {
            for who in 0..2 {
                ways[who].borrow_mut().room += 20_000;
                let program = &mut programs[who];
                program.session.below_mut().most = usize::MAX;
                program.session.below_mut().interrupts = false;
                program.shake_hands();
                program.write(100_000, 10);
                program.read(30_000);
                check(&programs, &ways);
            }
        }
        for (who, other) in [(0, 1), (1, 0)] {
            if cut {
                continue;
            }
            prop_assert_eq!(programs[other].came, programs[who].queued, "of {}", who);
            prop_assert_eq!(programs[who].taken, programs[who].queued);
            prop_assert_eq!(programs[who].has_ended, told_to_end[who]);
            prop_assert_eq!(programs[other].saw_end, told_to_end[who]);
            prop_assert!(!programs[other].session.is_truncated());
            prop_assert!(!programs[who].session.has_own());
        }
    }
}

fn check(programs: &[Program; 2], ways: &[Rc<RefCell<Way>>; 2]) {
    for (who, program) in programs.iter().enumerate() {
        let way = ways[who].borrow();
        let on_the_wire = readable(&way.written);
        assert!(program.taken <= on_the_wire, "taken before its record was handed over");
        let committed = program.session.committed();
        assert!(program.taken + committed >= on_the_wire, "on its way, and in nobody's account");
        assert!(committed <= 80 << 10, "{committed} bytes are held twice");
        let other = &programs[1 - who];
        assert!(other.came <= on_the_wire);
    }
}

#[test]
fn an_end_of_the_stream_below_is_truncated_wherever_it_comes() {
    let ways = [Rc::new(RefCell::new(Way::default())), Rc::new(RefCell::new(Way::default()))];
    let mut program = Program::new(Toy::server(), &ways[0], &ways[1]);
    ways[0].borrow_mut().bytes.extend([1, 0, 0, 0]);
    ways[0].borrow_mut().ended = true;
    assert!(!program.session.shake_hands(&mut [0; 100]).unwrap());
    let error = program.session.shake_hands(&mut [0; 100]).unwrap_err();
    assert_eq!((error.kind(), program.session.is_truncated()), (ErrorKind::UnexpectedEof, true));
}

// Whoever sends nothing but empty records must not keep everybody else waiting: a read ends after a while
// although more is there, and says so.
#[test]
fn a_read_of_records_without_plaintext_is_bounded() {
    let ways = [Rc::new(RefCell::new(Way::default())), Rc::new(RefCell::new(Way::default()))];
    let mut program = Program::new(Toy::server(), &ways[0], &ways[1]);
    let record =
        |kind: u8, body: u8| [&[kind, 0, 0, 0, body][..], &vec![0; body.into()], &[0xAA; TAG]].concat();
    ways[0].borrow_mut().bytes.extend([record(1, 1), record(1, 1)].concat());
    program.session.shake_hands(&mut [0; 100]).unwrap();
    for _ in 0..10_000 {
        ways[0].borrow_mut().bytes.extend(record(2, 0));
    }
    ways[0].borrow_mut().bytes.extend(record(2, 3));
    let (mut buf, mut reads) = ([0; 16 << 10], 0);
    let count = loop {
        reads += 1;
        match program.session.read(&mut buf) {
            Ok(count) => break count,
            Err(error) => assert_eq!(error.kind(), ErrorKind::Interrupted),
        }
    };
    assert!(reads >= 20 && count == 3, "{reads} reads, {count} bytes");
}
