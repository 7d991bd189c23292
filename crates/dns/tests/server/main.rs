//! The DNS server as clients see it: real sockets in front of a real state.

#[cfg(test)]
mod answers;
#[cfg(test)]
mod dig;
#[cfg(test)]
mod noise;
#[cfg(test)]
mod recursors;
#[cfg(test)]
mod transports;
#[cfg(test)]
mod world;
