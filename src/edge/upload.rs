//! Brings clips to the hub: a tus 1.0 client (creation, HEAD, PATCH) over HTTPS.
