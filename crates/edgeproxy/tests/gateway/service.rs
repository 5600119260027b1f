//! What a gateway publishes: services of this machine.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;

use crate::hub::Folder;

/// Where peers find the one, and the other.
pub(crate) const HTTP: &str = "10.50.0.1:80";
pub(crate) const ECHO: &str = "10.50.0.1:7";

/// The folder of a gateway that publishes both. They live until the process ends.
pub(crate) fn folder() -> Folder {
    let publish =
        |listen: &str, target: SocketAddr| format!("[[publish]]\nlisten = \"{listen}\"\ntarget = \"{target}\"\n");
    Folder::with(&[publish(HTTP, serve(answer)), publish(ECHO, serve(echo))].concat())
}

fn serve(each: fn(TcpStream) -> io::Result<()>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    // Whoever hangs up is no failure of the service.
    let each = move |client| _ = each(client);
    thread::spawn(move || listener.incoming().flatten().for_each(|client| _ = thread::spawn(move || each(client))));
    address
}

/// One request, answered by its first line.
fn answer(client: TcpStream) -> io::Result<()> {
    let mut client = BufReader::new(client);
    let (mut first, mut line) = (String::new(), String::new());
    client.read_line(&mut first)?;
    while client.read_line(&mut line)? > 2 {
        line.clear();
    }
    let body = first.trim_end();
    let length = body.len();
    write!(client.get_mut(), "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}")
}

fn echo(client: TcpStream) -> io::Result<()> {
    client.set_nodelay(true)?;
    io::copy(&mut client.try_clone()?, &mut &client).map(|_| ())
}
