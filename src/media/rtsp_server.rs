//! Real RTSP servers for the demo and the tests.
