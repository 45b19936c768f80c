// A C guest that accepts on descriptor 3 and answers one connection with what it got, twice.
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

int main(int argc, char **argv) {
  (void)argv;
  FILE *file = fopen("/etc/passwd", "r");
  printf("file %d\n", file != NULL);
  fflush(stdout);
  if (argc > 1) fcntl(3, F_SETFL, fcntl(3, F_GETFL) | O_NONBLOCK);
  int fd = accept(3, NULL, NULL);
  while (fd < 0 && errno == EAGAIN) {
    struct pollfd wait = {.fd = 3, .events = POLLIN};
    if (poll(&wait, 1, 10000) != 1) return 4;
    fd = accept(3, NULL, NULL);
  }
  if (fd < 0) return perror("accept"), 2;
  struct stat status;
  printf("socket %d seek %d\n", fstat(fd, &status) == 0, (int)lseek(fd, 0, SEEK_SET));
  char peeked[64] = "", got[64] = "";
  ssize_t size = recv(fd, peeked, sizeof peeked, MSG_PEEK);
  size = recv(fd, got, sizeof got, 0);
  printf("same %d\n", memcmp(peeked, got, (size_t)size) == 0);
  if (send(fd, got, (size_t)size, 0) != size) return 3;
  if (write(fd, got, (size_t)size) != size) return 3;
  shutdown(fd, SHUT_WR);
  printf("end %d\n", (int)read(fd, got, sizeof got));
  close(fd);
  printf("closed %d %s\n", (int)read(fd, got, 1), strerror(errno));
  return 0;
}
