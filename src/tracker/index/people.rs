//! Who may upload (tokens), and who may announce to a private tracker (users with passkeys).
//!
//! Secrets are 128 random bits. A token is shown once, the database has its SHA-256; nothing slower is needed, as what is
//! random cannot be guessed from a list. A passkey is part of URLs, and kept as it is.

use std::io::Read;
use std::time::SystemTime;

use rusqlite::{OptionalExtension, params};
use sha2::{Digest, Sha256};

use super::{Index, IndexError, unix, unsigned};
use crate::tracker::store::Moved;

/// What a person may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Uploads, with a token.
    Uploader,
    /// Announces, with a passkey.
    User,
}

/// Somebody with a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Person {
    /// Unique among those of the same role.
    pub name: String,
    /// Of a user.
    pub passkey: Option<String>,
    /// Seconds since 1970.
    pub created: i64,
    /// Of a user: what the peers with that passkey have moved, as they say.
    pub moved: Moved,
}

impl Person {
    /// Bytes sent for each byte received; `None` for who has received nothing.
    pub fn ratio(&self) -> Option<f64> {
        let Moved { uploaded, downloaded } = self.moved;
        (downloaded > 0).then(|| uploaded as f64 / downloaded as f64)
    }
}

impl Index {
    /// Makes a secret for a new person: the only time that it can be seen.
    ///
    /// # Errors
    /// [`IndexError::Exists`], or the database's trouble.
    pub fn add_person(&self, role: Role, name: &str, now: SystemTime) -> Result<String, IndexError> {
        let mut random = [0; 16];
        std::fs::File::open("/dev/urandom")?.read_exact(&mut random)?;
        let secret = format!("{}{}", role.prefix(), hex::encode(random));
        let (kept, owned, created) = (secret.clone(), name.to_owned(), unix(now));
        let added = self.write(move |connection| {
            Ok(match role {
                Role::Uploader => connection.execute(
                    "INSERT OR IGNORE INTO tokens (name, hash, created) VALUES (?, ?, ?)",
                    params![owned, hashed(&kept), created],
                )?,
                Role::User => connection.execute(
                    "INSERT OR IGNORE INTO users (name, passkey, created) VALUES (?, ?, ?)",
                    params![owned, kept, created],
                )?,
            })
        })?;
        if added == 0 { Err(IndexError::Exists(name.to_owned())) } else { Ok(secret) }
    }

    /// Everybody of a role, by name.
    ///
    /// # Errors
    /// The database's trouble.
    pub fn people(&self, role: Role) -> Result<Vec<Person>, IndexError> {
        self.read(|connection| {
            let mut statement = connection.prepare_cached(match role {
                Role::Uploader => "SELECT name, NULL, created, 0, 0 FROM tokens ORDER BY name",
                Role::User => "SELECT name, passkey, created, uploaded, downloaded FROM users ORDER BY name",
            })?;
            let person = |row: &rusqlite::Row<'_>| {
                let moved = Moved { uploaded: unsigned(row.get(3)?), downloaded: unsigned(row.get(4)?) };
                Ok(Person { name: row.get(0)?, passkey: row.get(1)?, created: row.get(2)?, moved })
            };
            Ok(statement.query_map([], person)?.collect::<Result<_, _>>()?)
        })
    }

    /// Adds what users have moved, by their passkeys, to what they had before. Who is gone is left out.
    ///
    /// # Errors
    /// The database's trouble; then nothing is added.
    pub fn book(&self, moved: Vec<(String, Moved)>) -> Result<(), IndexError> {
        self.write(move |connection| {
            // At the end of the numbers it stays there: a sum beyond them would be none that is exact.
            let sql = "UPDATE users SET uploaded = uploaded + min(?2, 9223372036854775807 - uploaded),
                       downloaded = downloaded + min(?3, 9223372036854775807 - downloaded) WHERE passkey = ?1";
            let mut statement = connection.prepare_cached(sql)?;
            let number = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
            for (passkey, Moved { uploaded, downloaded }) in moved {
                statement.execute(params![passkey, number(uploaded), number(downloaded)])?;
            }
            Ok(())
        })
    }

    /// Takes somebody's secret away; whether there was such a one.
    ///
    /// # Errors
    /// The database's trouble.
    pub fn remove_person(&self, role: Role, name: &str) -> Result<bool, IndexError> {
        let name = name.to_owned();
        self.write(move |connection| {
            let sql = match role {
                Role::Uploader => "DELETE FROM tokens WHERE name = ?",
                Role::User => "DELETE FROM users WHERE name = ?",
            };
            Ok(connection.execute(sql, [name])? == 1)
        })
    }

    /// Whose upload token this is; asks the database, so that a token is good, or not any more, at once.
    ///
    /// # Errors
    /// The database's trouble.
    pub fn uploader(&self, token: &str) -> Result<Option<String>, IndexError> {
        let hash = hashed(token.trim());
        self.read(|connection| {
            let mut statement = connection.prepare_cached("SELECT name FROM tokens WHERE hash = ?")?;
            Ok(statement.query_row([hash], |row| row.get(0)).optional()?)
        })
    }
}

impl Role {
    /// So that people, and programs that look for leaked secrets, know what it is. A passkey stands in URLs.
    fn prefix(self) -> &'static str {
        match self {
            Self::Uploader => "btfs_",
            Self::User => "",
        }
    }
}

fn hashed(secret: &str) -> [u8; 32] {
    Sha256::digest(secret).into()
}
