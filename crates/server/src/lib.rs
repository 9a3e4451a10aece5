//! The OpenAI Images API over HTTP: routes, wire types, validation, encoding
