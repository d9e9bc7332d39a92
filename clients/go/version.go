package tokenbroker

// Version is this package's: build.sh names the package file after it.
const Version = "0.1.0"
