//! The chat's web port, spoken to byte by byte: WebSockets and HTTP as hostile, careless and strict
//! clients speak them.

#[path = "../chat/mod.rs"]
mod chat;
mod frames;
mod http;
mod order;
#[path = "../util/mod.rs"]
mod util;

/// With `--threads 2` the web port promises what it does on one reactor.
mod on_two_reactors {
    use super::chat::on_two_reactors;
    use super::{http, order};

    #[test]
    fn what_came_before_a_close_is_answered_before_it() {
        on_two_reactors(order::what_came_before_a_close_is_answered_before_it);
        on_two_reactors(order::a_throttled_clients_lines_come_before_the_answer_to_its_close);
    }

    #[test]
    fn pings_of_a_client_that_does_not_read_are_not_queued_for_without_end() {
        on_two_reactors(order::pings_of_a_client_that_does_not_read_are_not_queued_for_without_end);
    }

    #[test]
    fn answers_that_nobody_takes_hold_back_those_to_come() {
        on_two_reactors(http::answers_that_nobody_takes_hold_back_those_to_come);
    }

    #[test]
    fn a_websocket_is_granted_to_sound_requests_only() {
        on_two_reactors(http::a_websocket_is_granted_to_sound_requests_only);
    }
}
