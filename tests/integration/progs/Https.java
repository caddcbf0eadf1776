// SPDX-License-Identifier: Apache-2.0
// Java's own TLS: server ADDR PORT KEYSTORE answers every request with 10000 bytes; client URL asks with
// HttpsURLConnection and with HttpClient and prints the lengths of the answers.
import com.sun.net.httpserver.HttpsConfigurator;
import com.sun.net.httpserver.HttpsServer;
import java.io.FileInputStream;
import java.net.InetSocketAddress;
import java.net.URI;
import java.net.URL;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.security.KeyStore;
import java.security.SecureRandom;
import java.security.cert.X509Certificate;
import java.util.Arrays;
import javax.net.ssl.HttpsURLConnection;
import javax.net.ssl.KeyManagerFactory;
import javax.net.ssl.SSLContext;
import javax.net.ssl.TrustManager;
import javax.net.ssl.X509TrustManager;

public class Https {
	static final char[] PASSWORD = "password".toCharArray();

	static class Anyone implements X509TrustManager {
		public void checkClientTrusted(X509Certificate[] c, String a) { }
		public void checkServerTrusted(X509Certificate[] c, String a) { }
		public X509Certificate[] getAcceptedIssuers() { return new X509Certificate[0]; }
	}

	static void serve(String addr, int port, String store) throws Exception {
		KeyStore ks = KeyStore.getInstance("PKCS12");
		ks.load(new FileInputStream(store), PASSWORD);
		KeyManagerFactory keys = KeyManagerFactory.getInstance("SunX509");
		keys.init(ks, PASSWORD);
		SSLContext tls = SSLContext.getInstance("TLS");
		tls.init(keys.getKeyManagers(), null, null);
		HttpsServer s = HttpsServer.create(new InetSocketAddress(addr, port), 16);
		s.setHttpsConfigurator(new HttpsConfigurator(tls));
		s.createContext("/", x -> {
			byte[] body = new byte[10000];
			Arrays.fill(body, (byte) 'j');
			x.sendResponseHeaders(200, body.length);
			x.getResponseBody().write(body);
			x.close();
		});
		s.start();
		System.out.println("listening");
	}

	static void ask(String url) throws Exception {
		SSLContext tls = SSLContext.getInstance("TLS");
		tls.init(null, new TrustManager[] {new Anyone()}, new SecureRandom());
		HttpsURLConnection c = (HttpsURLConnection) new URL(url).openConnection();
		c.setSSLSocketFactory(tls.getSocketFactory());
		c.setHostnameVerifier((h, s) -> true);
		System.out.println("old " + c.getInputStream().readAllBytes().length);
		c.disconnect();
		HttpResponse<byte[]> r = HttpClient.newBuilder().sslContext(tls).build().send(
			HttpRequest.newBuilder(URI.create(url)).build(), HttpResponse.BodyHandlers.ofByteArray());
		System.out.println("new " + r.body().length);
		System.exit(0);
	}

	public static void main(String[] a) throws Exception {
		System.setProperty("jdk.internal.httpclient.disableHostnameVerification", "true");
		if (a[0].equals("server"))
			serve(a[1], Integer.parseInt(a[2]), a[3]);
		else
			ask(a[1]);
	}
}
