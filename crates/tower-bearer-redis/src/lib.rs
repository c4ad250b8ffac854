#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod changes;
mod error;
mod link;
mod scripts;
mod store;

pub use store::RedisStore;
