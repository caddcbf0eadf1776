// SPDX-License-Identifier: Apache-2.0

// gotls: TLS in Go, any release since 1.15, standard library only.
//
//	gotls serve ADDR CERT KEY            bytes come back as they went in, until the peer closes
//	gotls https ADDR CERT KEY            HTTP/1.1 and HTTP/2: GET /N gives N bytes
//	gotls talk ADDR CONNS ROUNDS MAX     CONNS connections at once, ROUNDS messages each, of 1 to
//	                                     MAX bytes; waits for a line on stdin before the last half
//	gotls get URL COUNT PROTO            COUNT requests at once; PROTO is h1 or h2
//
// serve and talk print, for each connection, what crypto/tls took and gave: the local and remote
// address, bytes and SHA-256 of each direction.
package main

import (
	"bufio"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"hash"
	"io"
	"log"
	"math/rand"
	"net"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
)

// tally passes through to a connection and adds up what really moved.
type tally struct {
	*tls.Conn
	in, out   hash.Hash
	nin, nout int
}

func newTally(c *tls.Conn) *tally {
	return &tally{Conn: c, in: sha256.New(), out: sha256.New()}
}

func (t *tally) Read(p []byte) (int, error) {
	n, err := t.Conn.Read(p)
	t.in.Write(p[:n])
	t.nin += n
	return n, err
}

func (t *tally) Write(p []byte) (int, error) {
	n, err := t.Conn.Write(p)
	t.out.Write(p[:n])
	t.nout += n
	return n, err
}

var printing sync.Mutex

func (t *tally) tell() {
	printing.Lock()
	defer printing.Unlock()
	fmt.Printf("conn %s %s %d %x %d %x\n", t.LocalAddr(), t.RemoteAddr(), t.nin, t.in.Sum(nil),
		t.nout, t.out.Sum(nil))
}

// deep calls fn at the bottom of a stack that had to grow, and be copied, on the way down.
func deep(levels int, fn func() error) error {
	var room [256]byte
	if levels == 0 {
		return fn()
	}
	room[levels%len(room)] = byte(levels)
	err := deep(levels-1, fn)
	runtime.KeepAlive(&room)
	return err
}

func message(size int) []byte {
	b := make([]byte, 4+size)
	binary.BigEndian.PutUint32(b, uint32(size))
	for i := 4; i < len(b); i++ {
		b[i] = byte(rand.Uint32() >> 11)
	}
	return b
}

func echo(c *tls.Conn) {
	t := newTally(c)
	defer t.tell()
	defer c.Close()
	for {
		var head [4]byte
		if _, err := io.ReadFull(t, head[:]); err != nil {
			return
		}
		b := make([]byte, 4+binary.BigEndian.Uint32(head[:]))
		copy(b, head[:])
		if _, err := io.ReadFull(t, b[4:]); err != nil {
			return
		}
		err := deep(rand.Intn(200), func() error { _, err := t.Write(b); return err })
		if err != nil {
			return
		}
	}
}

func config(cert, key string) *tls.Config {
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		log.Fatal(err)
	}
	return &tls.Config{Certificates: []tls.Certificate{pair}}
}

func serve(addr, cert, key string) {
	l, err := tls.Listen("tcp", addr, config(cert, key))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("listening")
	for {
		c, err := l.Accept()
		if err != nil {
			log.Fatal(err)
		}
		go echo(c.(*tls.Conn))
	}
}

func serveHTTP(addr, cert, key string) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("listening")
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, _ := strconv.Atoi(strings.TrimPrefix(r.URL.Path, "/"))
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(i*i>>5) ^ byte(n)
		}
		w.Header().Set("Content-Type", "application/octet-stream")
		w.Write(b)
	})}
	log.Fatal(s.ServeTLS(l, cert, key))
}

func exchange(t *tally, max int) error {
	m := message(1 + rand.Intn(max))
	done := make(chan error, 1)
	go func() { // a writer and a reader at once, as HTTP clients do
		done <- deep(rand.Intn(200), func() error { _, err := t.Write(m); return err })
	}()
	b := make([]byte, len(m))
	err := deep(rand.Intn(200), func() error { _, err := io.ReadFull(t, b); return err })
	if werr := <-done; werr != nil {
		return werr
	}
	if err == nil && string(b) != string(m) {
		return fmt.Errorf("the echo differs")
	}
	return err
}

func talk(addr string, conns, rounds, max int) {
	var half, all sync.WaitGroup
	proceed := make(chan bool)
	half.Add(conns)
	all.Add(conns)
	for i := 0; i < conns; i++ {
		go func() {
			defer all.Done()
			c, err := tls.Dial("tcp", addr, &tls.Config{InsecureSkipVerify: true})
			if err != nil {
				log.Fatal(err)
			}
			t := newTally(c)
			for r := 0; r < rounds; r++ {
				if r == rounds/2 {
					half.Done()
					<-proceed
					fmt.Printf("half %s %d %d\n", c.LocalAddr(), t.nin, t.nout)
				}
				if err := exchange(t, max); err != nil {
					log.Fatalf("%s: %v", c.LocalAddr(), err)
				}
			}
			c.Close()
			t.tell()
		}()
	}
	half.Wait()
	fmt.Println("half way")
	bufio.NewReader(os.Stdin).ReadString('\n')
	close(proceed)
	all.Wait()
	fmt.Println("done")
}

func get(url string, count int, proto string) {
	tr := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
		ForceAttemptHTTP2: proto == "h2"}
	c := &http.Client{Transport: tr}
	var all sync.WaitGroup
	all.Add(count)
	for i := 0; i < count; i++ {
		go func() {
			defer all.Done()
			r, err := c.Get(url)
			if err != nil {
				log.Fatal(err)
			}
			h := sha256.New()
			n, err := io.Copy(h, r.Body)
			if err != nil {
				log.Fatal(err)
			}
			r.Body.Close()
			printing.Lock()
			fmt.Printf("got %s %d %x\n", r.Proto, n, h.Sum(nil))
			printing.Unlock()
		}()
	}
	all.Wait()
	tr.CloseIdleConnections()
	fmt.Println("done")
}

func number(s string) int {
	n, err := strconv.Atoi(s)
	if err != nil {
		log.Fatal(err)
	}
	return n
}

func main() {
	a := os.Args[1:]
	switch {
	case len(a) == 4 && a[0] == "serve":
		serve(a[1], a[2], a[3])
	case len(a) == 4 && a[0] == "https":
		serveHTTP(a[1], a[2], a[3])
	case len(a) == 5 && a[0] == "talk":
		talk(a[1], number(a[2]), number(a[3]), number(a[4]))
	case len(a) == 4 && a[0] == "get":
		get(a[1], number(a[2]), a[3])
	default:
		log.Fatal("usage: see the source")
	}
}
