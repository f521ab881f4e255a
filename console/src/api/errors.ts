/** An answer of the server that is not a success, or none at all (`status` 0). The message is the server's and names the fix. */
export class ApiError extends Error {
  constructor(
    message: string,
    readonly status: number,
    readonly code: string | null = null,
    readonly requestId: string | null = null,
    readonly fix: string = "",
  ) {
    super(message);
    this.name = "ApiError";
  }
}

/** Returns the error that a body of the server describes. */
export function errorOf(body: unknown, status: number, requestId: string | null): ApiError {
  const found = isRecord(body) && isRecord(body.error) ? body.error : {};
  const message = typeof found.message === "string" ? found.message : `HTTP ${status}`;
  const code = typeof found.code === "string" ? found.code : null;
  return new ApiError(message, status, code, requestId);
}

/** Whether a value is an object with keys. */
export function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
