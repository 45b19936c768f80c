// A name service module as an image could bring one: leaves a mark when it is loaded.
#include <fcntl.h>
#include <unistd.h>

__attribute__((constructor)) static void loaded(void) {
  close(open("/loaded", O_CREAT | O_WRONLY, 0600));
}
