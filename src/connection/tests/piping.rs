//! How a pipe's input is told of: always while it is wanted, once while it is not, never behind its end.

use super::*;

fn pipe() -> World {
    let mut world = world();
    world.conn = Connection::new(State::Open, Via::Pipe, None, world.now);
    world.conn.be_pipe(Halves::Both, Input::Retold);
    world
}

impl World {
    fn telling(&mut self) -> Option<Telling> {
        let defaults = self.config.settings();
        self.conn.new_telling(&defaults)
    }

    fn comes(&mut self, answers: impl IntoIterator<Item = Answer>) {
        self.socket.reads.extend(answers);
        self.hint(Hints { readable: true, ..Hints::default() });
    }
}

#[test]
fn a_short_read_is_the_last_of_a_turn_and_whoever_left_something_is_told_again() {
    let mut world = pipe();
    assert_eq!(world.telling(), Some(Telling::Always));
    world.comes([Answer::Bytes(64), Answer::Bytes(64)]);
    world.turn();
    assert_eq!((world.shown, world.telling()), (64, None));
    world.comes([]);
    world.turn();
    assert_eq!((world.shown, world.telling()), (128, None));
}

#[test]
fn what_is_not_wanted_is_told_of_once_until_it_has_been_read() {
    let mut world = pipe();
    assert_eq!(world.telling(), Some(Telling::Always));
    world.conn.pause_reading();
    // As long as nothing comes, nothing has to be asked.
    assert_eq!(world.telling(), None);
    world.comes([Answer::Bytes(1000), Answer::Bytes(7), Answer::Bytes(7)]);
    world.turn();
    assert_eq!((world.shown, world.telling()), (0, Some(Telling::Once)));
    assert_eq!(world.telling(), None);
    world.conn.resume_reading();
    assert_eq!(world.telling(), None, "it is known to be readable");
    world.turn();
    assert_eq!((world.shown, world.telling()), (1007, Some(Telling::Always)));
}

#[test]
fn who_was_paused_again_by_a_short_read_is_told_of_the_rest_once_it_is_wanted() {
    let mut world = pipe();
    world.comes([Answer::Bytes(7), Answer::Bytes(7)]);
    world.turn();
    world.conn.pause_reading();
    assert_eq!(world.telling(), None);
    assert!(!world.conn.is_at_rest(&world.config.settings()), "it is owed a telling");
    world.conn.resume_reading();
    assert_eq!(world.telling(), Some(Telling::Always));
}

#[test]
fn behind_the_end_of_its_input_it_is_told_of_no_more() {
    let mut world = pipe();
    assert_eq!(world.telling(), Some(Telling::Always));
    world.comes([Answer::Eof]);
    world.turn();
    assert_eq!(world.telling(), Some(Telling::Never));
    assert_eq!(world.telling(), None);
}

#[test]
fn a_pipe_with_a_session_is_read_until_nothing_is_left() {
    let mut world = pipe();
    assert_eq!(world.telling(), Some(Telling::Always));
    world.conn.set_secured(true);
    assert_eq!((world.telling(), world.telling()), (Some(Telling::Once), None));
}

#[test]
fn what_cannot_be_told_of_again_is_not_asked_for() {
    for input in [Input::Watched, Input::Unwatched] {
        let mut world = pipe();
        world.conn.be_pipe(Halves::Both, input);
        assert_eq!(world.telling(), None);
        world.comes([Answer::Eof]);
        world.turn();
        assert_eq!(world.telling(), None);
    }
}
