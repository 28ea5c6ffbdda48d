//! What others rely on and what must therefore not change unnoticed: the bytes on
//! the wire, the texts of error codes, the shipped configuration, the API.

#[cfg(test)]
mod codes;
#[cfg(test)]
mod files;
#[cfg(test)]
mod openapi;
#[cfg(test)]
mod readme;
#[cfg(test)]
mod wire;
