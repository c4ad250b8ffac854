//! Models of `src/singleflight.rs`, whose file the tests here include as it is: its locks and atomics come from
//! `crate::sync`, which is loom's in one test and shuttle's in the other.
