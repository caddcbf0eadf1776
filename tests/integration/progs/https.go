// SPDX-License-Identifier: Apache-2.0

// Go's net/http: web ADDR PORT CERT KEY answers GET /NAME-SIZE with SIZE bytes that repeat NAME, and
// POST with the body's length and SHA-256. get URL... and post URL SIZE are clients, over HTTP/1.1 after
// -h1. echo ADDR PORT CERT KEY and clients ADDR PORT COUNT ROUNDS equal|random are bare TLS, all
// connections at once. Secrets go to $SSLKEYLOGFILE.
package main

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
)

func secrets() io.Writer {
	path := os.Getenv("SSLKEYLOGFILE")
	if path == "" {
		return nil
	}
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		log.Fatal(err)
	}
	return f
}

func pattern(name string, size int) []byte {
	return bytes.Repeat([]byte(name+"."), size/(len(name)+1)+1)[:size]
}

func server(addr, port, crt, key string) (net.Listener, *tls.Config) {
	cert, err := tls.LoadX509KeyPair(crt, key)
	if err != nil {
		log.Fatal(err)
	}
	l, err := net.Listen("tcp", net.JoinHostPort(addr, port))
	if err != nil {
		log.Fatal(err)
	}
	return l, &tls.Config{Certificates: []tls.Certificate{cert}, KeyLogWriter: secrets()}
}

func answer(w http.ResponseWriter, r *http.Request) {
	if r.Method == "POST" {
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%d %x\n", len(body), sha256.Sum256(body))
		return
	}
	cut := strings.LastIndex(r.URL.Path, "-")
	size, _ := strconv.Atoi(r.URL.Path[cut+1:])
	w.Write(pattern(r.URL.Path[1:cut], size))
}

func web(a []string) {
	l, conf := server(a[0], a[1], a[2], a[3])
	s := http.Server{Handler: http.HandlerFunc(answer), TLSConfig: conf}
	fmt.Println("listening")
	log.Fatal(s.ServeTLS(l, "", ""))
}

func ask(a []string, post bool) {
	t := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true, KeyLogWriter: secrets()},
		ForceAttemptHTTP2: true}
	if a[0] == "-h1" {
		t.ForceAttemptHTTP2 = false
		t.TLSNextProto = map[string]func(string, *tls.Conn) http.RoundTripper{}
		a = a[1:]
	}
	client := &http.Client{Transport: t}
	urls := a
	if post {
		urls = a[:1]
	}
	for _, url := range urls {
		var res *http.Response
		var err error
		if post {
			size, _ := strconv.Atoi(a[1])
			res, err = client.Post(url, "text/plain", bytes.NewReader(pattern("post", size)))
		} else {
			res, err = client.Get(url)
		}
		if err != nil {
			log.Fatal(err)
		}
		body, err := io.ReadAll(res.Body)
		if err != nil {
			log.Fatal(err)
		}
		res.Body.Close()
		fmt.Printf("answer %d %d %x\n", res.ProtoMajor, len(body), sha256.Sum256(body))
	}
	client.CloseIdleConnections()
}

func echo(a []string) {
	l, conf := server(a[0], a[1], a[2], a[3])
	fmt.Println("listening")
	for {
		c, err := l.Accept()
		if err != nil {
			log.Fatal(err)
		}
		go func() {
			s := tls.Server(c, conf)
			buf := make([]byte, 65536)
			for {
				n, err := s.Read(buf)
				if n > 0 {
					s.Write(buf[:n])
				}
				if err != nil {
					break
				}
			}
			s.Close()
		}()
	}
}

func size(i, r int, sizes string) int {
	lengths := []int{1, 16, 700, 16384, 20000, 65537}
	if sizes == "equal" {
		return 600
	}
	return lengths[(i*7+r*5)%len(lengths)] + i
}

func clients(a []string) {
	count, _ := strconv.Atoi(a[2])
	rounds, _ := strconv.Atoi(a[3])
	conf := &tls.Config{InsecureSkipVerify: true, KeyLogWriter: secrets()}
	var all sync.WaitGroup
	for i := 0; i < count; i++ {
		all.Add(1)
		go func(i int) {
			defer all.Done()
			s, err := tls.Dial("tcp", net.JoinHostPort(a[0], a[1]), conf)
			if err != nil {
				log.Fatal(err)
			}
			for r := 0; r < rounds; r++ {
				data := pattern(fmt.Sprint(i, " ", r), size(i, r, a[4]))
				go s.Write(data)
				got := make([]byte, len(data))
				if _, err := io.ReadFull(s, got); err != nil || !bytes.Equal(got, data) {
					log.Fatal("wrong echo ", i, r, err)
				}
			}
			s.Close()
		}(i)
	}
	all.Wait()
	fmt.Println("done")
}

func main() {
	a := os.Args[2:]
	switch os.Args[1] {
	case "web":
		web(a)
	case "get":
		ask(a, false)
	case "post":
		ask(a, true)
	case "echo":
		echo(a)
	case "clients":
		clients(a)
	}
}
