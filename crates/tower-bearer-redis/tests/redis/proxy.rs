//! A proxy before a server, that holds back what passes, or loses it.
