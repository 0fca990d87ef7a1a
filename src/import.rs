//! Takes API clients and the directory over from HitKeep's own database.
//!
//! The steps are apart: [`tables`] is rows of any source, [`parquet`] reads them from HitKeep's
//! backup, [`hitkeep`] makes them the domain's types, [`plan`] decides what an import does,
//! [`answers`] is how HitKeep itself decides, [`compare`] puts its answers beside ours, and
//! [`run`] carries a plan out. All but reading files and carrying out are pure.

pub mod answers;
pub mod compare;
pub mod directory;
pub mod hitkeep;
pub mod parquet;
pub mod plan;
pub mod run;
pub mod snapshot;
pub mod tables;
pub mod undo;
