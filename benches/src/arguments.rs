//! The few arguments of a benchmark, in addition to those that cargo passes.

/// The value after this name.
pub fn argument(name: &str) -> Option<String> {
    std::env::args().skip_while(|argument| argument != name).nth(1)
}
