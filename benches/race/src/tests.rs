//! What the figures rest on.

use crate::rounds::Rounds;

#[test]
fn the_median_of_an_even_number_lies_between_the_middle_two() {
    assert_eq!(Rounds::new([4.0, 1.0, 3.0, 2.0]).median(), 2.5);
    assert_eq!(Rounds::new([3.0, 1.0, 2.0]).median(), 2.0);
}

#[test]
fn the_interval_of_fifteen_rounds_leaves_out_three_on_either_side() {
    // The tables of the sign test have it so: 15 values, the 4th and the 12th, 96.5 %.
    assert_eq!(Rounds::new((1..=15).map(f64::from)).interval(), (4.0, 12.0));
}

#[test]
fn few_rounds_give_the_whole_range() {
    assert_eq!(Rounds::new([1.0, 2.0, 3.0]).interval(), (1.0, 3.0));
}
