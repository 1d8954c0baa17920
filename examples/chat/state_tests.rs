//! What must hold of the state, whatever happens.

use proptest::prelude::*;

use crate::channel::Rank;
use crate::irc::fold;
use crate::stamp::{ServerId, Stamp};
use crate::state::{State, User, UserId};

const OPERATOR: Rank = Rank { operator: true, voice: false };

fn stamp(at: u64) -> Stamp {
    Stamp { at, server: ServerId(1) }
}

fn user(nick: &str, at: u64) -> User {
    let (user, host) = ("u".to_owned(), "h".to_owned());
    User { wish: nick.to_owned(), claim: stamp(at), user, host, number: at, ..User::default() }
}

fn nick(state: &State, id: UserId) -> &str {
    &state.user(id).expect("a user").nick
}

impl State {
    /// What must hold whatever happened.
    pub(crate) fn check(&self) {
        let mut nicks: Vec<String> = self.users().map(|(_, user)| fold(&user.nick)).collect();
        nicks.sort();
        nicks.dedup();
        assert_eq!(nicks.len(), self.user_count(), "two of one nick");
        for (id, user) in self.users() {
            assert_eq!(self.find(&user.nick), Some(id));
            for name in &user.channels {
                assert!(self.is_member(id, name), "{name}");
            }
        }
        for channel in self.channels() {
            assert!(!channel.members.is_empty(), "an empty channel is none");
            for (id, member) in &channel.members {
                assert!(self.user(*id).expect("a member").channels.contains(&fold(&channel.name)));
                assert!(member.born >= channel.born, "a member of an older channel");
            }
        }
    }
}

#[test]
fn a_nick_belongs_to_whoever_took_it_first_whatever_its_case() {
    let mut state = State::default();
    let (anna, _) = state.add(user("Anna", 5));
    let (late, renamed) = state.add(user("anna", 7));
    assert_eq!((nick(&state, anna), renamed.len()), ("Anna", 0));
    assert!(nick(&state, late).starts_with("anna_"), "{}", nick(&state, late));
    let (early, renamed) = state.add(user("ANNA", 3));
    assert_eq!((nick(&state, early), renamed.len()), ("ANNA", 1));
    assert!(nick(&state, anna).starts_with("Anna_"));
    // Once it is free, the first of those who wished for it has it again.
    let (_, renamed) = state.remove(early).expect("a user");
    assert_eq!((nick(&state, anna), renamed[0].id), ("Anna", anna));
    state.claim(anna, "other", stamp(9));
    assert_eq!(nick(&state, late), "anna");
    state.claim(late, "ANNA", stamp(10));
    assert_eq!(nick(&state, late), "ANNA", "one's own in another case");
    state.check();
}

#[test]
fn a_channel_lives_from_its_first_member_to_its_last() {
    let mut state = State::default();
    let ((a, _), (b, _)) = (state.add(user("a", 1)), state.add(user("b", 2)));
    assert!(state.join(a, "#X", stamp(7), OPERATOR) && !state.join(a, "#x", stamp(7), OPERATOR));
    assert!(state.join(b, "#x", stamp(7), Rank::default()));
    let channel = state.channel("#x").expect("a channel");
    assert_eq!((channel.born, channel.is_operator(a), channel.is_operator(b)), (stamp(7), true, false));
    assert_eq!(state.neighbours(a), [b].into());
    assert!(state.part(a, "#X") && !state.part(a, "#x"));
    state.remove(b);
    assert!(state.channel("#x").is_none());
    state.check();
}

#[test]
fn of_two_channels_of_one_name_the_older_one_holds() {
    for older_first in [true, false] {
        let mut state = State::default();
        let ((a, _), (b, _)) = (state.add(user("a", 1)), state.add(user("b", 2)));
        let mut come = [(a, stamp(5)), (b, stamp(9))];
        if !older_first {
            come.reverse();
        }
        for (id, born) in come {
            state.join(id, "#x", born, OPERATOR);
        }
        let channel = state.channel("#x").expect("a channel");
        assert_eq!((channel.born, channel.is_operator(a), channel.is_operator(b)), (stamp(5), true, false));
        assert_eq!(state.adopt("#x"), [b]);
        assert!(!state.channel("#x").expect("a channel").is_operator(b));
        state.check();
    }
}

#[test]
fn who_is_invisible_is_seen_by_neighbours_only() {
    let mut state = State::default();
    let ids: Vec<UserId> = ["a", "b", "c"].iter().map(|nick| state.add(user(nick, 1)).0).collect();
    state.user_mut(ids[0]).unwrap().invisible = true;
    state.join(ids[0], "#x", stamp(1), OPERATOR);
    state.join(ids[1], "#x", stamp(1), Rank::default());
    assert!(state.sees(ids[1], ids[0]) && !state.sees(ids[2], ids[0]) && state.sees(ids[0], ids[0]));
}

proptest! {
    #[test]
    fn the_two_sides_of_a_membership_always_agree(
        steps in proptest::collection::vec((0u8..6, 0usize..6, 0usize..4), 1..120)
    ) {
        let mut state = State::default();
        let mut ids: Vec<UserId> = Vec::new();
        for (n, (what, who, which)) in steps.into_iter().enumerate() {
            let (nick, channel) = (format!("n{who}"), format!("#{which}"));
            let id = ids.get(who).copied().unwrap_or(UserId(0));
            match what {
                0 => ids.push(state.add(user(&nick, n as u64 % 7)).0),
                1 => {
                    state.join(id, &channel, stamp(n as u64 % 5), OPERATOR);
                }
                2 => {
                    state.part(id, &channel);
                }
                3 => drop(state.claim(id, &nick, stamp(n as u64 % 7))),
                4 => drop(state.adopt(&channel)),
                _ => drop(state.remove(id)),
            }
            state.check();
        }
    }

    /// Whatever is heard first: the same users come to the same nicks, and the same memberships to the
    /// same channels.
    #[test]
    fn any_order_of_news_comes_to_the_same_state(
        (users, order) in proptest::collection::vec((0usize..3, 0u64..4, 0usize..2, 0u64..3, any::<bool>()), 1..8)
            .prop_flat_map(|users| {
                let order: Vec<usize> = (0..users.len()).chain(0..users.len()).collect();
                (Just(users), Just(order).prop_shuffle())
            })
    ) {
        let play = |order: &[usize]| {
            let (mut state, mut ids) = (State::default(), vec![None; users.len()]);
            for n in order {
                let (nick, claim, channel, born, operator) = users[*n];
                let (nick, channel) = (format!("n{nick}"), format!("#{channel}"));
                let id = *ids[*n].get_or_insert_with(|| {
                    let user = User { number: *n as u64, server: Some(ServerId(1)), ..user(&nick, claim) };
                    state.add(user).0
                });
                state.claim(id, &nick, stamp(claim));
                state.join(id, &channel, stamp(born), Rank { operator, voice: false });
                state.check();
            }
            let nicks: Vec<String> = ids.iter().map(|id| nick(&state, id.expect("came")).to_owned()).collect();
            let operators: Vec<bool> = ids.iter().zip(&users).map(|(id, user)| {
                let channel = state.channel(&format!("#{}", user.2)).expect("a channel");
                channel.is_operator(id.expect("came"))
            }).collect();
            let born: Vec<Stamp> = state.channels().map(|channel| channel.born).collect();
            (nicks, operators, born)
        };
        let usual: Vec<usize> = (0..users.len()).collect();
        prop_assert_eq!(play(&usual), play(&order));
    }
}
