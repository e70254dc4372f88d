//! Who may submit. (Stub to compile against; the file of the config room's branch replaces it.)

use std::sync::Arc;

/// Somebody who may submit mail.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct User {
    /// The name AUTH gives.
    pub name: String,
    /// May use the private commands.
    pub operator: bool,
    /// Addresses or `*@domain` that MAIL FROM must match; empty: any.
    pub senders: Vec<String>,
}

/// The users file, read.
#[derive(Debug, Default)]
pub struct Users;

impl Users {
    /// The user, where the password is right; as slow for a wrong name as for a wrong password.
    pub fn verify(&self, _name: &str, _password: &[u8]) -> Option<Arc<User>> {
        None
    }
}
