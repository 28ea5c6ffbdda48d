//! What others rely on and what must therefore not change unnoticed: the texts of
//! error codes, the shipped configuration, the API. The bytes on the wire are in
//! `protocol/tests`.

#[cfg(test)]
mod codes;
#[cfg(test)]
mod files;
#[cfg(test)]
mod openapi;
#[cfg(test)]
mod readme;
