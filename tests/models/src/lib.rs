//! Models of `src/singleflight.rs`. The tests include that file unchanged. Its locks and atomics come from
//! `crate::sync`, which is loom's in one test and shuttle's in the other.
