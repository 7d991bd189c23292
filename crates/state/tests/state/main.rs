//! The tables as their users see them: written through the writer, read through a reader.

#[cfg(test)]
mod blocking;
#[cfg(test)]
mod ca;
#[cfg(test)]
mod catalog;
#[cfg(test)]
mod house;
#[cfg(test)]
mod intentions;
#[cfg(test)]
mod kv;
#[cfg(test)]
mod presence;
#[cfg(test)]
mod queries;
#[cfg(test)]
mod random;
#[cfg(test)]
mod rest;
#[cfg(test)]
mod rights;
#[cfg(test)]
mod sessions;
#[cfg(test)]
mod takeover;
#[cfg(test)]
mod tokens;
#[cfg(test)]
mod txn;
