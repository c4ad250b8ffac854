#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]
#![forbid(unsafe_code)]

mod changes;
mod error;
mod link;
mod scripts;
mod store;

pub use store::RedisStore;
