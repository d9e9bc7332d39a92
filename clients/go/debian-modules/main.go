// For machines that reach Debian's packages but no Go module proxy: unpacks Debian's sources of the modules that this one needs,
// lays them out in a directory as a module proxy of files, and prints the settings that have go use it:
//
//	eval "$(go run debian-modules/main.go ./modules)"
//
// Must never let go mix them up with the real ones: Debian's sources stand in for the versions that go.mod names and differ from
// them, so they have a module cache of their own and no checksums. Where the real proxy is reached, this is not for you.
package main

import (
	"archive/zip"
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
)

var packages = []string{
	"golang-github-golang-protobuf-1-5-dev", "golang-golang-x-net-dev", "golang-golang-x-sys-dev", "golang-golang-x-text-dev",
	"golang-google-genproto-dev", "golang-google-grpc-dev", "golang-google-protobuf-dev",
}

// required is a line of go.mod that names a module and its version.
var required = regexp.MustCompile(`(?m)^\t(\S+) (v\S+)`)

func main() {
	if len(os.Args) != 2 {
		fail(fmt.Errorf("usage: go run main.go DIRECTORY"))
	}
	directory, err := filepath.Abs(os.Args[1])
	fail(err)
	proxy := filepath.Join(directory, "proxy")
	if _, err := os.Stat(proxy); err != nil {
		fail(os.MkdirAll(directory, 0o755))
		fail(layOutAll(directory, proxy))
	}
	fmt.Printf("export GOPROXY=file://%s GOMODCACHE=%s\n", proxy, filepath.Join(directory, "cache"))
	fmt.Println("export GOSUMDB=off GONOPROXY=none GOTOOLCHAIN=local GOFLAGS=-modcacherw CGO_ENABLED=0")
}

func fail(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "debian-modules:", err)
		os.Exit(1)
	}
}

// layOutAll makes the proxy; it is there whole or not at all.
func layOutAll(directory, proxy string) error {
	work, err := os.MkdirTemp(directory, "making")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	download := append([]string{"download", "-qq", "-o", "APT::Sandbox::User=root"}, packages...)
	if err := run(work, "apt-get", download...); err != nil {
		return fmt.Errorf("%w: is there a network, and has apt-get update run?", err)
	}
	fetched, err := filepath.Glob(filepath.Join(work, "*.deb"))
	if err != nil {
		return err
	}
	for _, one := range fetched {
		if err := run(work, "dpkg-deb", "--extract", one, work); err != nil {
			return err
		}
	}
	_, here, _, _ := runtime.Caller(0)
	module, err := os.ReadFile(filepath.Join(filepath.Dir(here), "..", "go.mod"))
	if err != nil {
		return err
	}
	made := filepath.Join(work, "proxy")
	for _, line := range required.FindAllStringSubmatch(string(module), -1) {
		path, version := line[1], line[2]
		sources := filepath.Join(work, "usr/share/gocode/src", path)
		if err := layOut(sources, path, version, filepath.Join(made, path, "@v")); err != nil {
			return err
		}
	}
	return os.Rename(made, proxy)
}

// layOut has one module as a proxy has it.
func layOut(sources, path, version, at string) error {
	if err := os.MkdirAll(at, 0o755); err != nil {
		return err
	}
	// This module's own go.mod names all that is needed; theirs name tools and tests that Debian's sources leave out.
	module := []byte("module " + path + "\n\ngo 1.17\n")
	archive, err := zipped(sources, path+"@"+version, module)
	if err != nil {
		return err
	}
	for name, text := range map[string][]byte{
		"list":            []byte(version + "\n"),
		version + ".info": []byte(`{"Version":"` + version + `"}`),
		version + ".mod":  module,
		version + ".zip":  archive,
	} {
		if err := os.WriteFile(filepath.Join(at, name), text, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// zipped is the module's files, without modules within it.
func zipped(sources, prefix string, module []byte) ([]byte, error) {
	var buffer bytes.Buffer
	archive := zip.NewWriter(&buffer)
	add := func(name string, text []byte) error {
		file, err := archive.Create(prefix + "/" + name)
		if err == nil {
			_, err = file.Write(text)
		}
		return err
	}
	err := filepath.WalkDir(sources, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || path == sources {
			return err
		}
		if entry.IsDir() {
			if _, err := os.Stat(filepath.Join(path, "go.mod")); err == nil || entry.Name() == "testdata" {
				return fs.SkipDir
			}
			return nil
		}
		name := strings.TrimPrefix(path, sources+"/")
		// Their tests need modules that are not here, and go mod tidy would ask for these.
		if !entry.Type().IsRegular() || name == "go.mod" || strings.HasSuffix(name, "_test.go") {
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return add(name, text)
	})
	if err == nil {
		err = add("go.mod", module)
	}
	if err == nil {
		err = archive.Close()
	}
	return buffer.Bytes(), err
}

func run(directory, name string, arguments ...string) error {
	command := exec.Command(name, arguments...)
	command.Dir, command.Stdout, command.Stderr = directory, os.Stderr, os.Stderr
	if err := command.Run(); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}
