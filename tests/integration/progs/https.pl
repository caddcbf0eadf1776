# SPDX-License-Identifier: Apache-2.0
# IO::Socket::SSL: server ADDR PORT CERT KEY FILE N answers N requests, a connection each, line by line;
# client ADDR PORT PATH FILE posts FILE and prints the answer.
use strict;
use warnings;
use IO::Socket::SSL;

sub slurp {
	open(my $f, '<:raw', $_[0]) or die "$_[0]: $!";
	local $/;
	return scalar <$f>;
}

$| = 1;
if (shift @ARGV eq 'server') {
	my ($addr, $port, $crt, $key, $file, $n) = @ARGV;
	my $s = IO::Socket::SSL->new(LocalAddr => $addr, LocalPort => $port, Listen => 16, ReuseAddr => 1,
		SSL_server => 1, SSL_cert_file => $crt, SSL_key_file => $key) or die "$SSL_ERROR";
	my $body = slurp($file);
	print "listening\n";
	for (1 .. $n) {
		my $c = $s->accept or next;
		while (my $line = <$c>) {
			last if $line =~ /^\r?\n$/;
		}
		print $c "HTTP/1.0 200 OK\r\nContent-Length: " . length($body) . "\r\n\r\n" . $body;
		close $c;
	}
} else {
	my ($addr, $port, $path, $file) = @ARGV;
	my $c = IO::Socket::SSL->new(PeerAddr => $addr, PeerPort => $port, SSL_verify_mode => SSL_VERIFY_NONE)
		or die "$SSL_ERROR";
	my $body = slurp($file);
	print $c "POST $path HTTP/1.1\r\nHost: mirror.test\r\nConnection: close\r\nContent-Length: "
		. length($body) . "\r\n\r\n" . $body;
	print while <$c>;
	close $c;
}
