/* A program that is set-uid root in its image and says which user it became: 0, or the caller's when
 * no_new_privs (prctl(2)) kept it from changing. */
#include <stdio.h>
#include <unistd.h>

int main(void) {
    printf("Effective uid: %d\n", (int)geteuid());
    return 0;
}
