//! One adapter per peer: the smallest that puts the peer's token on each request.

mod aliri;
mod aws;
mod azure;
mod by_hand;
mod cf_gears;
mod google;
mod huskarl;
mod kube;
mod middle;
mod object_store;
mod ours;
mod yup;

pub use aliri::Aliri;
pub use aws::Aws;
pub use azure::Azure;
pub use by_hand::ByHand;
pub use cf_gears::{CfGears, CfGearsAutoRefresh};
pub use google::Google;
pub use huskarl::Huskarl;
pub use kube::{Kube, exec_credential};
pub use middle::Middle;
pub use object_store::ObjectStore;
pub use ours::{Bare, Floor, Ours, OursNever};
pub use yup::Yup;
