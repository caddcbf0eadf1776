/* SPDX-License-Identifier: Apache-2.0 */
/*
 * curlnss: fetches HTTPS addresses with libcurl over NSS, one after the other on one connection,
 * and writes what it gets to its standard output. With -u FILE it posts the file to the last one.
 *
 * libcurl's headers come in packages that exclude each other, one for each TLS library, so what is
 * used of its stable interface is declared here.
 */
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

typedef void CURL;
enum option {
	CURLOPT_TIMEOUT = 13,
	CURLOPT_POST = 47,
	CURLOPT_SSL_VERIFYPEER = 64,
	CURLOPT_SSL_VERIFYHOST = 81,
	CURLOPT_URL = 10002,
	CURLOPT_READDATA = 10009,
	CURLOPT_POSTFIELDSIZE_LARGE = 30120,
};
CURL *curl_easy_init(void);
int curl_easy_setopt(CURL *c, enum option option, ...);
int curl_easy_perform(CURL *c);
void curl_easy_cleanup(CURL *c);
const char *curl_easy_strerror(int code);
char *curl_version(void);

static int post(CURL *c, const char *path)
{
	FILE *f = fopen(path, "rb");
	struct stat st;
	int err;

	if (!f || fstat(fileno(f), &st))
		return 1;
	curl_easy_setopt(c, CURLOPT_POST, 1L);
	curl_easy_setopt(c, CURLOPT_READDATA, f);
	curl_easy_setopt(c, CURLOPT_POSTFIELDSIZE_LARGE, (int64_t)st.st_size);
	err = curl_easy_perform(c);
	fclose(f);
	return err;
}

int main(int argc, char **argv)
{
	const char *file = argc > 3 && !strcmp(argv[1], "-u") ? argv[2] : NULL;
	CURL *c = curl_easy_init();
	int i, err = !c;

	if (c && !strstr(curl_version(), "NSS/")) {
		fprintf(stderr, "not libcurl over NSS: %s\n", curl_version());
		return 2;
	}
	if (c) {
		curl_easy_setopt(c, CURLOPT_SSL_VERIFYPEER, 0L);
		curl_easy_setopt(c, CURLOPT_SSL_VERIFYHOST, 0L);
		curl_easy_setopt(c, CURLOPT_TIMEOUT, 20L);
	}
	for (i = file ? 3 : 1; i < argc && !err; i++) {
		curl_easy_setopt(c, CURLOPT_URL, argv[i]);
		err = file && i == argc - 1 ? post(c, file) : curl_easy_perform(c);
	}
	if (err)
		fprintf(stderr, "%s\n", curl_easy_strerror(err));
	curl_easy_cleanup(c);
	return err != 0;
}
