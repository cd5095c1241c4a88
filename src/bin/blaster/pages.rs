//! The manual pages and completions of blaster, made by ci/pages.

#[path = "../../../tests/support/pages.rs"]
mod maker;

#[test]
fn pages_tell_every_option() {
    maker::make(crate::options::command());
}
