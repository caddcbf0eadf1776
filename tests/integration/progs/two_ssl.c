/* SPDX-License-Identifier: Apache-2.0 */
/*
 * two_ssl FILE…: makes a TLS object and reads from it, in vain, with each of these libraries: the
 * one it is linked with (with -DLINKED), each FILE by dlopen() and dlsym(), and the first again.
 * Says for each "NAME: RESULT FILE", FILE: where the function lies that it was given.
 */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

#include <openssl/ssl.h>

#ifdef LINKED
#define GET(name) name##_fn = h ? (__typeof__(&name))dlsym(h, #name) : name
#else
#define GET(name) name##_fn = (__typeof__(&name))dlsym(h, #name)
#endif

static void use(void *h, const char *what)
{
	__typeof__(&TLS_client_method) GET(TLS_client_method);
	__typeof__(&SSL_CTX_new) GET(SSL_CTX_new);
	__typeof__(&SSL_CTX_free) GET(SSL_CTX_free);
	__typeof__(&SSL_new) GET(SSL_new);
	__typeof__(&SSL_free) GET(SSL_free);
	__typeof__(&SSL_read) GET(SSL_read);
	SSL_CTX *ctx = SSL_CTX_new_fn(TLS_client_method_fn());
	SSL *ssl = SSL_new_fn(ctx);
	Dl_info where;
	char b;
	int ret = SSL_read_fn(ssl, &b, 1);

	if (!dladdr((void *)SSL_read_fn, &where))
		exit(1);
	printf("%s: %d %s\n", what, ret, where.dli_fname);
	SSL_free_fn(ssl);
	SSL_CTX_free_fn(ctx);
}

int main(int argc, char **argv)
{
#ifdef LINKED
	use(NULL, "linked");
#endif
	for (int i = 1; i < argc; i++) {
		void *h = dlopen(argv[i], RTLD_NOW | RTLD_LOCAL);

		if (!h)
			return 1;
		use(h, argv[i]);
	}
#ifdef LINKED
	use(NULL, "linked again");
#endif
	printf("nobody's: %p\n", dlsym(RTLD_DEFAULT, "gnutls_record_recv"));
	return 0;
}
