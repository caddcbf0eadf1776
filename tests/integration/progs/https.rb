# SPDX-License-Identifier: Apache-2.0
# Ruby's openssl: server ADDR PORT CERT KEY FILE answers every request with FILE, a thread a connection;
# client URL... reads each with open-uri and prints it.
require 'open-uri'
require 'openssl'
require 'socket'

$stdout.sync = true
if ARGV.shift == 'server'
  addr, port, crt, key, file = ARGV
  ctx = OpenSSL::SSL::SSLContext.new
  ctx.cert = OpenSSL::X509::Certificate.new(File.read(crt))
  ctx.key = OpenSSL::PKey.read(File.read(key))
  server = OpenSSL::SSL::SSLServer.new(TCPServer.new(addr, port.to_i), ctx)
  body = File.binread(file)
  puts 'listening'
  loop do
    Thread.new(server.accept) do |c|
      while (line = c.gets)
        break if line.strip.empty?
      end
      c.write("HTTP/1.0 200 OK\r\nContent-Length: #{body.bytesize}\r\n\r\n")
      c.write(body)
      c.close
    end
  end
else
  $stdout.binmode
  ARGV.each { |url| $stdout.write(URI.open(url, ssl_verify_mode: OpenSSL::SSL::VERIFY_NONE).read) }
end
