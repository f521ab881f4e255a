export const en = {
  lead: "Until then the terminal shows guard decisions and checks the audit log.",
};
