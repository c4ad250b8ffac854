//! One session for several processes (promises 22 and 23).

mod memory;
