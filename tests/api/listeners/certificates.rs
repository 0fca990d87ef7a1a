//! Callers that show a certificate.
