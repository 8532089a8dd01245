/* A C program that runs an engine in memory of its own, through Python's C API.
 *
 *     cc embed.c -o embed $(python3-config --includes) $(python3-config --ldflags --embed)
 *     ./embed network.engine
 *
 * The program allocates images and bits; Python reads and writes them at their addresses, and copies nothing that the
 * engine's runtime does not copy itself. The same calls serve a C++ program, or one in any language with C's calls.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

enum { BATCH = 4 };

static int fail(void) {
    PyErr_Print();
    return EXIT_FAILURE;
}

static long number(PyObject *engine, const char *name) {
    PyObject *value = PyObject_GetAttrString(engine, name);
    long found = value ? PyLong_AsLong(value) : -1;
    Py_XDECREF(value);
    return found;
}

int main(int argc, char **argv) {
    if (argc != 2) {
        fprintf(stderr, "usage: %s network.engine\n", argv[0]);
        return 2;
    }
    Py_Initialize();
    PyObject *module = PyImport_ImportModule("aurevoir");
    PyObject *engine = module ? PyObject_CallMethod(module, "load_engine", "s", argv[1]) : NULL;
    PyObject *shape = engine ? PyObject_GetAttrString(engine, "input_shape") : NULL;
    int height, width, channels;
    if (!shape || !PyArg_ParseTuple(shape, "iii", &height, &width, &channels)) return fail();

    long features = number(engine, "features");
    if (features < 0) return fail();
    size_t pixels = (size_t)BATCH * height * width * channels, row = ((size_t)features + 7) / 8;
    uint8_t *images = malloc(pixels), *bits = calloc(BATCH, row);
    if (!images || !bits) return EXIT_FAILURE;
    for (size_t i = 0; i < pixels; i++) images[i] = (uint8_t)(i * 2654435761u >> 24); /* decode photographs here */

    PyObject *addresses = Py_BuildValue("{s:K,s:K}", "images", (unsigned long long)(uintptr_t)images, "bits",
                                        (unsigned long long)(uintptr_t)bits);
    PyObject *done = addresses ? PyObject_CallMethod(engine, "run_pointers", "Oi", addresses, BATCH) : NULL;
    if (!done) return fail();
    for (int image = 0; image < BATCH; image++) {
        long ones = 0;
        for (size_t i = 0; i < row; i++) ones += __builtin_popcount(bits[image * row + i]);
        printf("image %d: %ld of %ld features are positive\n", image, ones, features);
    }
    Py_DECREF(done);
    Py_DECREF(addresses);
    Py_DECREF(shape);
    Py_DECREF(engine);
    Py_DECREF(module);
    free(images);
    free(bits);
    return Py_FinalizeEx() ? EXIT_FAILURE : EXIT_SUCCESS;
}
