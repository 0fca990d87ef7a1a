//! The migrations are embedded: a changed one builds the service again.

fn main() {
    println!("cargo::rerun-if-changed=migrations");
}
