/* Makes the system calls that its arguments name, one after the other, without any library: it is to run in every
 * container. An argument is a number, the result of the last call (%), or bytes in hex whose address is meant (x0a0b).
 * Between two calls stands `+`, or `/` where the first may fail. Ends at a call that may not and does, with its errno;
 * else with 0. For a pod that does what no tool of its image would. */

static long call(long number, const long *with) {
  long result;
#if defined(__x86_64__)
  register long d __asm__("r10") = with[3], e __asm__("r8") = with[4], f __asm__("r9") = with[5];
  __asm__ volatile("syscall"
                   : "=a"(result)
                   : "a"(number), "D"(with[0]), "S"(with[1]), "d"(with[2]), "r"(d), "r"(e), "r"(f)
                   : "rcx", "r11", "memory");
#elif defined(__aarch64__)
  register long n __asm__("x8") = number, a __asm__("x0") = with[0], b __asm__("x1") = with[1];
  register long c __asm__("x2") = with[2], d __asm__("x3") = with[3], e __asm__("x4") = with[4];
  register long f __asm__("x5") = with[5];
  __asm__ volatile("svc 0" : "+r"(a) : "r"(n), "r"(b), "r"(c), "r"(d), "r"(e), "r"(f) : "memory");
  result = a;
#endif
  return result;
}

static int digit(char c) { return c <= '9' ? c - '0' : (c | 32) - 'a' + 10; }

/* The bytes take the place of their digits. */
static long value(char *text, long last) {
  char *to = text;
  long sign = 1, sum = 0;
  if (*text == '%') return last;
  if (*text == 'x') {
    for (char *from = text + 1; from[0] && from[1]; from += 2) *to++ = digit(from[0]) << 4 | digit(from[1]);
    *to = 0;
    return (long)text;
  }
  if (*text == '-') sign = -1, text++;
  while (*text) sum = sum * 10 + *text++ - '0';
  return sign * sum;
}

__attribute__((used)) static void run(long *stack) {
  char **argument = (char **)(stack + 2);
  long status = 0, last = 0;
  while (*argument) {
    long words[7] = {0};
    for (int count = 0; *argument && **argument != '+' && **argument != '/'; argument++)
      if (count < 7) words[count++] = value(*argument, last);
    const char next = *argument ? *(*argument++) : 0;
    last = call(words[0], words + 1);
    if (last < 0 && last > -4096 && next != '/') {
      status = -last;
      break;
    }
  }
  for (;;) call(EXIT, (const long[6]){status});
}

#if defined(__x86_64__)
__asm__(".globl _start\n_start: mov %rsp, %rdi\n and $-16, %rsp\n call run\n");
#elif defined(__aarch64__)
__asm__(".globl _start\n_start: mov x0, sp\n bl run\n");
#endif
