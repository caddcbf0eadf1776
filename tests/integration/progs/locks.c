/* SPDX-License-Identifier: Apache-2.0 */
/*
 * TLS calls while another thread holds the dynamic linker's lock and waits for them: in a
 * constructor of a library that is being loaded, and in a callback of dl_iterate_phdr() while a
 * third one loads.
 *
 * As a library (-DLIBRARY): its constructor makes such calls in a thread, and waits. As a program:
 * locks LIBRARY; prints "done".
 */
#include <dlfcn.h>
#include <link.h>
#include <openssl/ssl.h>
#include <pthread.h>
#include <stdio.h>

static void *call(void *ctx)
{
	SSL_CTX *c = SSL_CTX_new(TLS_client_method());
	SSL *ssl = c ? SSL_new(c) : NULL;
	char b[1];

	(void)ctx;
	if (!ssl)
		return NULL;
	SSL_set_connect_state(ssl);
	SSL_set_bio(ssl, BIO_new(BIO_s_mem()), BIO_new(BIO_s_mem()));
	(void)SSL_read(ssl, b, 1);
	(void)SSL_write(ssl, "x", 1);
	SSL_free(ssl);
	SSL_CTX_free(c);
	return "called";
}

/* In another thread. */
static int wait_for_calls(void)
{
	void *said = NULL;
	pthread_t t;

	if (pthread_create(&t, NULL, call, NULL))
		return 1;
	pthread_join(t, &said);
	return said ? 0 : 1;
}

#ifdef LIBRARY
__attribute__((constructor)) static void begin(void)
{
	puts(wait_for_calls() ? "no TLS" : "constructor");
}
#else
static int on_module(struct dl_phdr_info *info, size_t size, void *result)
{
	(void)info;
	(void)size;
	*(int *)result = wait_for_calls();
	return 1;
}

int main(int argc, char **argv)
{
	int result = 1;

	if (argc != 2 || !dlopen(argv[1], RTLD_NOW | RTLD_LOCAL))
		return 2;
	dl_iterate_phdr(on_module, &result);
	if (result)
		return 1;
	puts("done");
	return 0;
}
#endif
