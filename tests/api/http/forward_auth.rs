//! `/forward-auth`.
